"""How many of the attacks that its detectors were weighed on a new guard holds."""

from __future__ import annotations

from collections.abc import Sequence

from detectors.bundle import CellLevels
from detectors.calibrate import Calibration
from detectors.measured_split import successful
from detectors.samples import Measured, Samples, run_graph
from models.engine import READING, Readings
from models.onnx_engine import OnnxEngine


def attacks_held(
    engine: OnnxEngine,
    clean: tuple[Samples, Measured],
    attacked: Sequence[tuple[Samples, Measured]],
    calibration: Calibration,
    levels: Sequence[CellLevels],
) -> tuple[int, int]:
    """How many of the fusion split's successful attacks either route holds, and how many there are.

    The detectors have not seen these images, their weights have: new attacks are held less often,
    so a low share says that the guard cannot protect, a high one promises nothing.

    Args:
        engine: the bundle's, with its second stage if it has one.
        clean: the images that all attacked ones were made from.
        levels: by predicted class.
    """
    rows = successful(clean, attacked)
    images = [
        samples.images[i] for (samples, _), own in zip(attacked, rows, strict=True) for i in own
    ]
    judged = calibration.p_values(Readings(*run_graph(engine, images, READING)))
    return sum(levels[p.predicted].route(p) is not None for p in judged), len(judged)
