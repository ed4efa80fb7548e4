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

    The distances are its own, fitted on clean images. A ``Mahalanobis`` detector's are fitted on
    shifted ones too: it must be blind to them, and this score must not.
    """

    name = "quality"

    def __init__(self) -> None:
        super().__init__()
        self.distances = TapDistances()

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
