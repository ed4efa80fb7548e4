"""Energy in the directions in which benign images hardly vary."""

from __future__ import annotations

from torch import Tensor

from detectors.cues import CueDetector, Energies, Taps
from detectors.whitening import class_means, spectrum

SHARE = 0.5
"""Of a tap's directions, those with the least variance."""


class LeastEnergies(Energies):
    """Per tap, the mean square along its least-significant within-class principal directions, each
    in units of its own deviation.

    Args:
        share: of the directions.
    """

    def __init__(self, share: float = SHARE) -> None:
        super().__init__()
        self.share = share

    def directions(self, taps: Taps, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
        whole = sum(tap.shape[1] for tap in taps)
        blocks, start = [], 0
        for tap in taps:
            x = tap.detach().double()
            means, member = class_means(x, labels)
            deviation, values, vectors = spectrum(x - means[member])
            kept = max(1, round(self.share * tap.shape[1]))
            block = x.new_zeros((whole, kept))
            centre = x.new_zeros(whole)
            own = slice(start, start + tap.shape[1])
            block[own] = vectors[:, :kept] / values[:kept].sqrt() / deviation[:, None]
            centre[own] = means.mean(dim=0)
            blocks.append((block, centre))
            start += tap.shape[1]
        return blocks


class LeastSignificant(CueDetector):
    """The cheap half of LSCF-HF (least-significant component features, 2022): an attack moves
    features along directions that natural variation leaves alone."""

    name = "least_significant"
    two_sided = True

    def __init__(self) -> None:
        super().__init__(LeastEnergies())
