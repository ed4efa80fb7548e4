"""A random forest on the penultimate layer."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor

from detectors.detector import Detector
from detectors.features import Features
from detectors.forest import Forest

TREES = 30  # Ma et al. 2021, released code

# The released trees grow until every leaf is pure and so remember single patients. 32 leaves keep
# each leaf a statement about many images, and a forest at 30 x 31 comparisons.
LEAVES = 32


class DeepFeatures(Detector):
    """DFeat of Ma et al. 2021: ``P(attacked | penultimate tap)`` of a random forest.

    Classes are weighted, not oversampled: copies of one image on both sides of a split are what
    gives the released protocol AUC 0.87 on data without any attack. Not differentiable.
    """

    name = "dfeat"

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.forest = Forest()

    def fit(
        self,
        benign: Features,
        labels: Tensor,  # noqa: ARG002  every detector has it
        adversarial: Features,
        groups: Tensor | None = None,  # noqa: ARG002  every detector has it
    ) -> Self:
        x = torch.cat([benign.taps[-1], adversarial.taps[-1]]).detach().cpu().numpy()
        y = np.r_[np.zeros(len(benign.logits)), np.ones(len(adversarial.logits))]
        forest = RandomForestClassifier(
            TREES, max_leaf_nodes=LEAVES, class_weight="balanced", random_state=self.seed
        )
        self.forest = Forest.of(forest.fit(x, y)).to(benign.logits.device)
        return self

    def forward(self, features: Features) -> Tensor:
        probability: Tensor = self.forest(features.taps[-1])
        return probability
