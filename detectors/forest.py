"""A random forest as tensors."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor, nn


class Forest(nn.Module):
    """``P(positive | x)`` of a fitted scikit-learn forest, by three tensor products.

    The GEMM strategy of Hummingbird (Nakandala et al., OSDI 2020): all ``I`` inner nodes of all
    ``T`` trees are tested at once, ``left = x[feature] <= threshold``. ``path[t]`` is ``+1`` where
    a leaf lies left of a node, ``-1`` right, 0 elsewhere, so a leaf is reached exactly when
    ``path . left`` equals the number of its left turns, the largest value it can take.
    """

    feature: Tensor
    threshold: Tensor
    path: Tensor
    turns: Tensor
    value: Tensor

    @classmethod
    def of(cls, forest: RandomForestClassifier) -> Self:
        """Convert a binary classifier; the positive class is ``forest.classes_[1]``."""
        trees = [estimator.tree_ for estimator in forest.estimators_]
        inner = max(max((tree.children_left >= 0).sum() for tree in trees), 1)
        leaves = max((tree.children_left < 0).sum() for tree in trees)
        feature = np.zeros((len(trees), inner), dtype=np.int64)
        # A padded node belongs to no path; a padded leaf waits for more turns than there are nodes.
        threshold = np.zeros((len(trees), inner), dtype=np.float32)
        path = np.zeros((len(trees), leaves, inner), dtype=np.float32)
        turns = np.full((len(trees), leaves), inner + 1, dtype=np.float32)
        value = np.zeros((len(trees), leaves), dtype=np.float32)
        for t, tree in enumerate(trees):
            nodes = np.flatnonzero(tree.children_left >= 0)
            slot = {int(node): i for i, node in enumerate(nodes)}
            feature[t, : len(nodes)] = tree.feature[nodes]
            threshold[t, : len(nodes)] = _round_down(tree.threshold[nodes])
            count = tree.value[:, 0, :]
            leaf = 0
            walk: list[tuple[int, tuple[tuple[int, int], ...]]] = [(0, ())]
            while walk:
                node, turned = walk.pop()
                if node in slot:
                    walk.append((int(tree.children_left[node]), (*turned, (slot[node], 1))))
                    walk.append((int(tree.children_right[node]), (*turned, (slot[node], -1))))
                    continue
                for at, direction in turned:
                    path[t, leaf, at] = direction
                turns[t, leaf] = sum(direction == 1 for _, direction in turned)
                value[t, leaf] = count[node, 1] / count[node].sum() / len(trees)
                leaf += 1
        module = cls()
        module.register_buffer("feature", torch.from_numpy(feature.reshape(-1)))
        module.register_buffer("threshold", torch.from_numpy(threshold[:, None]))
        module.register_buffer("path", torch.from_numpy(path.transpose(0, 2, 1).copy()))
        module.register_buffer("turns", torch.from_numpy(turns[:, None]))
        module.register_buffer("value", torch.from_numpy(value[:, None]))
        return module

    def forward(self, x: Tensor) -> Tensor:
        """``float32[N, D]`` to ``float32[N]`` in ``[0, 1]``."""
        trees, inner = self.path.shape[:2]
        tested = x.index_select(1, self.feature).reshape(-1, trees, inner).transpose(0, 1)
        reached = ((tested <= self.threshold).to(x.dtype) @ self.path) == self.turns
        return (reached.to(x.dtype) * self.value).sum(dim=(0, 2))


def _round_down(threshold: np.ndarray) -> np.ndarray:
    """The largest float32 not above each float64: scikit-learn compares float32 features with
    float64 thresholds, and ``x <= t`` is then the same for every float32 ``x``."""
    near = threshold.astype(np.float32)
    return np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near)
