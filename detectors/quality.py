"""How far an image is from anything the model was meant for: the quality route's score."""

from __future__ import annotations

import math
from typing import Self

from torch import Tensor

from detectors.bank import split_groups
from detectors.detector import Detector
from detectors.features import Features
from detectors.mahalanobis import TapDistances

TAIL = 0.01
"""Share of benign images, the farthest in an aspect, that its unit comes from."""
FEWEST = 3
"""Images that make it, at least."""


class Quality(Detector):
    """``max_l t_l`` over the log Mahalanobis distances of all taps and of the picture's own
    statistics (``detectors.picture``).

    Learnt from benign images alone: another modality, a photograph or heavy degradation is far at
    some depth or in some aspect, and where the image looks typical must not excuse it.

    ``t_l`` is 0 at the median of benign images and 1 at the mean of the farthest 1 % of them, each
    measured without itself. In units of a deviation, which says nothing of tails, the aspect with
    the longest one, a tap, would drown the others: an eye or a scan is farther in its picture
    than all skin lesions, and no farther in the taps than a few of them.

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
        seen = aspects(benign)
        z = self.distances.held_out(seen, labels, benign_groups, seen, benign_groups)
        typical = z.quantile(0.5, dim=0)
        far = z.topk(min(max(FEWEST, math.ceil(TAIL * len(z))), len(z)), dim=0).values.mean(dim=0)
        self.distances.in_units(typical, (far - typical).clamp(min=1e-3))
        return self

    def forward(self, features: Features) -> Tensor:
        return self.of_distances(self.distances(aspects(features)))

    def of_distances(self, t: Tensor) -> Tensor:
        """From ``t_l``, ``float32[N, L]``."""
        return t.amax(dim=1)


def aspects(features: Features) -> tuple[Tensor, ...]:
    """What an image is measured in: every tap, ``float32[N, d_l]``, and the picture's own
    statistics."""
    seen = (features.picture,) if features.picture.shape[1] else ()  # an older bundle has none
    return *features.taps, *seen
