"""How far an image is from anything the model was meant for: the quality route's score."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from detectors.bank import split_groups
from detectors.detector import Detector
from detectors.features import Features
from detectors.mahalanobis import TapDistances


class Quality(Detector):
    """``max_l z_l`` over the standardised Mahalanobis distances of all taps and of the picture's
    own statistics (``detectors.picture``).

    Learnt from benign images alone: another modality, a photograph or heavy degradation is far at
    some depth or in some aspect, and where the image looks typical must not excuse it.

    The distances are its own, fitted on clean images. A ``Mahalanobis`` detector's are fitted on
    shifted ones too: it must be blind to them, and this score must not.
    """

    name = "quality"

    def __init__(self) -> None:
        super().__init__()
        self.distances = TapDistances()
        self.picture_width = 0

    def fit(
        self,
        benign: Features,
        labels: Tensor,
        adversarial: Features,
        groups: Tensor | None = None,
    ) -> Self:
        benign_groups, _ = split_groups(groups, len(labels), len(adversarial.logits))
        self.picture_width = benign.picture.shape[1]
        self.distances.fit(_aspects(benign), labels, benign_groups)
        return self

    def forward(self, features: Features) -> Tensor:
        z: Tensor = self.distances(_aspects(features))
        return z.amax(dim=1)


def _aspects(features: Features) -> tuple[Tensor, ...]:
    seen = (features.picture,) if features.picture.shape[1] else ()  # an older bundle has none
    return *features.taps, *seen
