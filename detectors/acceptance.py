"""A bundle's own acceptance: a fixture on which every engine must agree.

The fixture's images are made, not taken: a bundle holds no patient's pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detectors.calibrate import Calibration
from detectors.guard import Guard
from detectors.squeeze import median3
from models.diagnostic import DiagnosticModel
from models.engine import Engine, Readings
from models.head import class_logits, probabilities
from models.load import OnnxModel
from models.phantom import radiograph

FIXTURE = "fixture.safetensors"
FIELDS = ("logits", "probabilities", "scores", "fused", "quality")

# Two kernels for the same float32 sums differ in the last bits; distances and densities of far-out
# images amplify that, hence the relative part.
ABSOLUTE, RELATIVE = 2e-3, 2e-3


class AcceptanceProblem(Exception):
    """Two engines, or a bundle and its fixture, disagree."""


def fixture_images(size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """``uint8[8, h, w, 1]``: phantom radiographs, smooth waves, noise and a ramp."""
    height, width = size
    side = max(height, width)
    phantoms = [
        radiograph(patient=i, image=0, opacities=bool(i % 2), size=side)[:height, :width]
        for i in range(4)
    ]
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    waves = [
        np.cos(rows / rng.uniform(2, 40)) + np.sin(columns / rng.uniform(2, 40)) for _ in range(2)
    ]
    smooth = [np.rint((wave + 2) * 60).astype(np.uint8)[..., None] for wave in waves]
    noise = rng.integers(0, 256, (height, width, 1), dtype=np.uint8)
    ramp = (rows * 255 // max(height - 1, 1)).astype(np.uint8)[..., None]
    return np.stack([*phantoms, *smooth, noise, ramp])


def accept(
    model: DiagnosticModel | OnnxModel, guard: Guard, engine: Engine, calibration: Calibration
) -> dict[str, npt.NDArray[Any]]:
    """Check that torch, where the model has a torch form, reads the fixture as ``engine`` does, and
    return the fixture's file content. Raises ``AcceptanceProblem``."""
    images = fixture_images(model.spec.preprocessing.size)
    readings = engine.run(images)
    differentiable = model if isinstance(model, DiagnosticModel) else model.differentiable
    if differentiable is not None:
        compare(read_with_torch(differentiable, guard, images), readings, calibration)
    return {"images": images, **{name: getattr(readings, name) for name in FIELDS}}


def read_with_torch(
    model: DiagnosticModel, guard: Guard, images: npt.NDArray[np.uint8]
) -> Readings:
    """The fused graph's reading, computed by the torch modules it was exported from."""
    with torch.no_grad():
        x = model.preprocess(torch.from_numpy(images))
        raw, taps = model.activations(x)
        own = class_logits(raw, model.spec.head)
        squeezed = own[:, :0]
        if guard.squeezes:
            squeezed = class_logits(model.activations(median3(x))[0], model.spec.head)
        scores, fused, quality = guard(torch.cat(taps, dim=1), own, squeezed)
        answers = (raw, probabilities(raw, model.spec.head), scores, fused, quality)
    return Readings(*(answer.numpy() for answer in answers))


def check_fixture(
    fixture: dict[str, npt.NDArray[Any]], engine: Engine, calibration: Calibration
) -> None:
    """Check that ``engine`` reads a bundle's fixture as it was read when the guard was fitted.
    Raises ``AcceptanceProblem``."""
    expected = Readings(*(fixture[name] for name in FIELDS))
    compare(expected, engine.run(fixture["images"]), calibration)


def compare(expected: Readings, found: Readings, calibration: Calibration) -> None:
    """Raise ``AcceptanceProblem`` unless both say the same within float32's means: every value
    within tolerance, and the same predicted class."""
    for name in FIELDS:
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
