"""Which images of the fitting material become canaries: those whose verdict is furthest from a
level, so that a canary fails when the guard does and not by a hair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detectors.bundle import CellLevels
from detectors.calibrate import Calibration, PValues
from detectors.canaries import MOST_BYTES, Canary, Kind, held
from detectors.samples import Pixels, Samples
from models.engine import Engine
from models.imaging.encode import png

LOOKED_AT = 32
"""Most images of each kind that are judged to choose from."""


def choose(
    clean: Samples,
    attacked: Sequence[Samples],
    each: int,
    engine: Engine,
    calibration: Calibration,
    levels: Sequence[CellLevels],
) -> tuple[Canary, ...]:
    """At most ``each`` clean and ``each`` adversarial canaries; fewer, or none, where no image
    gets the verdict that it must."""

    def read(pixels: Pixels) -> tuple[PValues, bool]:
        (p,) = calibration.p_values(engine.run(pixels[None]))
        return p, held(p, levels[p.predicted])

    canaries = []
    for kind, images in (
        (Kind.CLEAN, list(clean.images[:LOOKED_AT])),
        (Kind.ADVERSARIAL, _spread(attacked)),
    ):
        sign = -1 if kind is Kind.CLEAN else 1
        judged = [(*read(pixels), pixels) for pixels in images]
        order = np.argsort([sign * p.fused for p, _, _ in judged], kind="stable")
        chosen = [
            Canary(kind, data)
            for i in order
            if Canary(kind, b"").seen(judged[i][1]) and len(data := png(judged[i][2])) <= MOST_BYTES
        ]
        canaries += chosen[:each]
    return tuple(canaries)


def _spread(attacked: Sequence[Samples]) -> list[Pixels]:
    """Some images of every attack."""
    if not attacked:
        return []
    each = max(1, LOOKED_AT // len(attacked))
    return [pixels for samples in attacked for pixels in samples.images[:each]]
