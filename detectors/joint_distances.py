"""The tap distances of several parts of a guard in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from detectors.mahalanobis import TapDistances


class JointDistances(TapDistances):
    """``TapDistances`` fitted on different images as one, their cues side by side: a whitening
    product a tap for all, then one product for their means and one for their sums of squares. A
    batch of one pays for each operation and hardly for its size.

    Args:
        sets: fitted, each on the first of the same taps; some on fewer of them.
    """

    def __init__(self, sets: Sequence[TapDistances]) -> None:
        super().__init__()
        self.counts = [len(one.location) for one in sets]
        """Cues of each set, in order."""
        total = sum(self.counts)
        classes = max(_classes(one) for one in sets)
        owners, means = [], []
        constant = sets[0].constant.new_empty(total, classes)
        for level in range(max(self.counts)):
            whitening, shifts = [], []
            for i, one in enumerate(sets):
                if level >= self.counts[i]:
                    continue
                place = sum(self.counts[:i]) + level
                white = one.get_buffer(f"whitening{level}")
                whitening.append(white)
                shifts.append(one.get_buffer(f"shift{level}"))
                width = white.shape[1]
                above = sum(one.get_buffer(f"shift{k}").shape[0] for k in range(level))
                # a class that one set has not seen is no nearer than the last that it has
                own = torch.arange(classes).clamp(max=_classes(one) - 1) + level * _classes(one)
                mean = white.new_zeros(width, total, classes)
                mean[:, place] = one.means[above : above + width, own]
                means.append(mean.flatten(1))
                constant[place] = one.constant[own]
                owner = white.new_zeros(width, total)
                owner[:, place] = 1
                owners.append(owner)
            self.register_buffer(f"whitening{level}", torch.cat(whitening, dim=1))
            self.register_buffer(f"shift{level}", torch.cat(shifts))
        self.register_buffer("means", torch.cat(means))
        self.register_buffer("owner", torch.cat(owners))
        self.register_buffer("constant", constant.flatten())
        self.register_buffer("location", torch.cat([one.location for one in sets]))
        self.register_buffer("scale", torch.cat([one.scale for one in sets]))


def _classes(distances: TapDistances) -> int:
    return distances.means.shape[1] // len(distances.location)
