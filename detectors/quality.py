"""How far an image is from anything the model was meant for: the quality route's score."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from detectors.bank import split_groups
from detectors.detector import Detector
from detectors.features import Features
from detectors.mahalanobis import TapDistances


class Quality(Detector):
    """``sum_l max(z_l, 0)`` over the standardised Mahalanobis distances of all taps.

    Learnt from benign images alone: another modality, a photograph or heavy degradation is far at
    some depth, and a tap where the image looks typical must not excuse it.

    Args:
        distances: the distances of a ``Mahalanobis`` detector, when the guard has one: the fused
            graph then computes them once.
    """

    name = "quality"

    def __init__(self, distances: TapDistances | None = None) -> None:
        super().__init__()
        self.distances = distances or TapDistances()

    def fit(
        self,
        benign: Features,
        labels: Tensor,
        adversarial: Features,
        groups: Tensor | None = None,
    ) -> Self:
        benign_groups, _ = split_groups(groups, len(labels), len(adversarial.logits))
        self.distances.fit(benign.taps, labels, benign_groups)
        return self

    def forward(self, features: Features) -> Tensor:
        z: Tensor = self.distances(features.taps)
        return z.clamp(min=0).sum(dim=1)
