"""How many of the attacks that its detectors were weighed on a new guard holds."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from detectors.bundle import CellLevels
from detectors.calibrate import Calibration
from detectors.guard import Guard
from detectors.measured_split import MeasuredSplit
from models.engine import Readings


def attacks_held(
    guard: Guard, fusion: MeasuredSplit, calibration: Calibration, levels: Sequence[CellLevels]
) -> tuple[int, int]:
    """How many of ``fusion``'s successful attacks either route holds, and how many there are.

    The detectors have not seen these images, their weights have: new attacks are held less often,
    so a low share says that the guard cannot protect, a high one promises nothing.

    Args:
        levels: by predicted class.
    """
    attacked = fusion.attacked
    features = attacked.features(guard.widths)
    with torch.no_grad():
        scores, quality = guard.read(features)
        fused = guard.fusion(scores)
    readings = Readings(
        attacked.class_logits,
        attacked.probabilities,
        scores.numpy(),
        fused.numpy(),
        quality.numpy(),
    )
    judged = calibration.p_values(readings)
    return sum(levels[p.predicted].route(p) is not None for p in judged), len(judged)
