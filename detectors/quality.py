"""How far an image is from anything the model was meant for: the quality route's score."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from detectors.bank import split_groups
from detectors.detector import Detector
from detectors.features import Features
from detectors.mahalanobis import TapDistances
from detectors.picture import ROUGHEST

TAIL = 0.01
"""Share of benign images, the farthest in an aspect, that its unit comes from."""
FEWEST = 3
"""Images that make it, at least."""


class Quality(Detector):
    """``max_l t_l`` over the log Mahalanobis distances of all taps and of the picture's own
    statistics, and its roughest place (``detectors.picture``).

    Learnt from benign images alone: another modality, a photograph or heavy degradation is far at
    some depth or in some aspect, and where the image looks typical must not excuse it. The roughest
    place, at any of three scales, is an aspect of its own, since a column among a hundred moves
    their distance little, and no smoothness is far.

    ``t_l`` is 0 at the median of benign images and 1 at the mean of the farthest 1 % of them, each
    measured without itself. In units of a deviation, which says nothing of tails, the aspect with
    the longest one, a tap, would drown the others: an eye or a scan is farther in its picture
    than all skin lesions, and no farther in the taps than a few of them.

    The distances are its own, fitted on clean images. A ``Mahalanobis`` detector's are fitted on
    shifted ones too: it must be blind to them, and this score must not.
    """

    name = "quality"
    roughness: Tensor
    """``float32[2, 3]``: zeros, and one over the units; ``[2, 0]`` where there is no picture."""

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
        self.distances.in_units(*_units(z))
        zero, unit = _units(_roughest(benign))
        self.register_buffer("roughness", torch.stack([zero, 1 / unit]))
        return self

    def forward(self, features: Features) -> Tensor:
        return self.of_distances(self.distances(aspects(features)), features)

    def of_distances(self, t: Tensor, features: Features) -> Tensor:
        """From ``t_l`` of the distances, ``float32[N, L]``."""
        rough = (_roughest(features) - self.roughness[0]) * self.roughness[1]
        return torch.cat([t, rough], dim=1).amax(dim=1)


def aspects(features: Features) -> tuple[Tensor, ...]:
    """What an image's distances are measured in: every tap, ``float32[N, d_l]``, and the picture's
    own statistics."""
    seen = (features.picture[:, :-ROUGHEST],) if features.picture.shape[1] else ()
    return *features.taps, *seen


def _roughest(features: Features) -> Tensor:
    """``float32[N, 3]``."""
    return features.picture[:, -ROUGHEST:]


def _units(z: Tensor) -> tuple[Tensor, Tensor]:
    """Zero and unit of each column of benign images' ``float32[N, Q]``."""
    typical = z.median(dim=0).values
    far = z.topk(min(max(FEWEST, math.ceil(TAIL * len(z))), len(z)), dim=0).values.mean(dim=0)
    return typical, (far - typical).clamp(min=1e-3)
