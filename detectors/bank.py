"""Which reference images a detector keeps, and whom each of them may not be compared with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def subsample(labels: Tensor, groups: Tensor, size: int, seed: int) -> Tensor:
    """Draw at most ``size`` images, balanced over classes and, within a class, over groups.

    A patient's second image is drawn only when every patient of the class has given a first, so
    that shifted copies of one image do not crowd out other patients.

    Args:
        labels: ``int64[N]``, classes.
        groups: ``int64[N]``, patients or sources.

    Returns:
        ``int64[min(size, N)]``, ascending positions.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    label, group = labels.cpu().numpy()[order], groups.cpu().numpy()[order]
    round_of_group = _occurrence(np.stack([label, group], axis=1))
    order, label = _sorted_by(round_of_group, order, label)
    order, label = _sorted_by(_occurrence(label[:, None]), order, label)
    return torch.from_numpy(np.sort(order[:size])).to(labels.device)


def split_groups(groups: Tensor | None, benign: int, adversarial: int) -> tuple[Tensor, Tensor]:
    """``(int64[benign], int64[adversarial])`` from the ``groups`` argument of ``Detector.fit``,
    on the CPU."""
    if groups is None:
        groups = torch.arange(benign + adversarial)
    if len(groups) != benign + adversarial:
        raise ValueError(
            f"{len(groups)} groups for {benign} benign and {adversarial} attacked images; "
            "give one group per image, benign first"
        )
    groups = groups.cpu()
    return groups[:benign], groups[benign:]


def folds(groups: Tensor, count: int, seed: int) -> Tensor:
    """``int64[N]`` in ``[0, count)``: a fold per image that no group straddles."""
    names, inverse = torch.unique(groups.cpu(), return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return torch.from_numpy(order % count)[inverse]


def _occurrence(rows: np.ndarray) -> np.ndarray:
    """How many equal rows come before each row."""
    _, inverse = np.unique(rows, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    order = np.argsort(inverse, kind="stable")
    starts = np.r_[0, np.flatnonzero(np.diff(inverse[order])) + 1]
    first = np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    count = np.empty(len(order), dtype=np.int64)
    count[order] = np.arange(len(order)) - first
    return count


def _sorted_by(key: np.ndarray, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    order = np.argsort(key, kind="stable")
    return tuple(array[order] for array in arrays)
