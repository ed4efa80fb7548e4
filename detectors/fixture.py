"""A bundle's fixture: images on which every engine must read what was read when it was fitted.

Torch-free: `lazaret bundle verify` runs it on the machine that will serve. The images are made, not
taken: it holds no patient's pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.calibrate import Calibration
from models.engine import READING, Engine, Readings

FIXTURE = "fixture.safetensors"

# Two kernels for the same float32 sums differ in the last bits; distances and densities of far-out
# images amplify that, hence the relative part.
ABSOLUTE, RELATIVE = 2e-3, 2e-3


class AcceptanceProblem(Exception):
    """Two engines, or a bundle and its fixture, disagree."""


def check_fixture(
    fixture: dict[str, npt.NDArray[Any]], engine: Engine, calibration: Calibration
) -> None:
    """Check that ``engine`` reads a bundle's fixture as it was read when the guard was fitted, but
    for a second stage, whose views are each deployment's own. Raises ``AcceptanceProblem``."""
    expected = Readings(*(fixture[name] for name in READING))
    # here, so that importing the service costs no ONNX Runtime
    from detectors.staged_engine import StagedEngine

    read = engine.first if isinstance(engine, StagedEngine) else engine.run
    compare(expected, read(fixture["images"]), calibration)


def compare(expected: Readings, found: Readings, calibration: Calibration) -> None:
    """Raise ``AcceptanceProblem`` unless both say the same within float32's means: every value
    within tolerance, and the same predicted class."""
    for name in READING:
        wanted, got = getattr(expected, name), getattr(found, name)
        if wanted.shape != got.shape:
            raise AcceptanceProblem(f"{name}: shape {got.shape}, expected {wanted.shape}")
        close = np.isclose(got, wanted, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
        if not close.all():
            worst = np.nanmax(np.abs(got - wanted))
            raise AcceptanceProblem(
                f"{name} differs by {worst:.3g} on the fixture; the engine does not run the graph "
                "that was fitted"
            )
    for image, (a, b) in enumerate(
        zip(calibration.p_values(expected), calibration.p_values(found), strict=True)
    ):
        if a.predicted != b.predicted:
            raise AcceptanceProblem(f"fixture image {image}: predicted classes differ")
