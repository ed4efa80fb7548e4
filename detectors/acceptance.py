"""A bundle's own acceptance: torch and the exported graph read a fixture alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detectors.aligned import Seed
from detectors.alignment import Alignment
from detectors.calibrate import Calibration
from detectors.feature_graph import AlignedRows
from detectors.fixture import compare
from detectors.guard import Guard
from detectors.picture import Picture
from detectors.side_networks import SideNetworks, gradient_of
from detectors.squeeze import root_mean_square, squeeze
from detectors.synthetic_gradient import SyntheticGradient
from models.diagnostic import DiagnosticModel
from models.engine import READING, Engine, Readings
from models.head import class_logits, probabilities
from models.load import OnnxModel
from models.phantom import radiograph


def fixture_images(size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """``uint8[8, h, w, 1]``: phantom radiographs, smooth waves, noise and a ramp. Waves and ramp
    waver by a grey level: where neighbours are alike, max pooling has ties, which engines break
    differently, and a gradient goes another way."""
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
    noise = rng.integers(0, 256, (height, width, 1), dtype=np.uint8)
    ramp = rows * 255 / max(height - 1, 1)
    smooth = [
        np.rint(plain + rng.integers(-1, 2, (height, width)))
        .clip(0, 255)
        .astype(np.uint8)[..., None]
        for plain in (*((wave + 2) * 60 for wave in waves), ramp)
    ]
    return np.stack([*phantoms, *smooth[:2], noise, smooth[2]])


def accept(
    model: DiagnosticModel | OnnxModel,
    guard: Guard,
    beside: SideNetworks,
    engine: Engine,
    calibration: Calibration,
) -> dict[str, npt.NDArray[Any]]:
    """Check that torch, where the model has a torch form, reads the fixture as ``engine`` does, and
    return the fixture's file content. Raises ``AcceptanceProblem``."""
    images = fixture_images(model.spec.preprocessing.size)
    readings = engine.run(images)
    differentiable = model if isinstance(model, DiagnosticModel) else model.differentiable
    if differentiable is not None:
        compare(read_with_torch(differentiable, guard, beside, images), readings, calibration)
    return {"images": images, **{name: getattr(readings, name) for name in READING}}


def read_with_torch(
    model: DiagnosticModel, guard: Guard, beside: SideNetworks, images: npt.NDArray[np.uint8]
) -> Readings:
    """The fused graph's reading, computed by the torch modules it was exported from."""
    with torch.no_grad():
        x = model.preprocess(torch.from_numpy(images))
        raw, taps = model.activations(x)
        own = class_logits(raw, model.spec.head)
        squeezed, change = own[:, :0], torch.zeros(len(own))
        if guard.squeezes:
            view = squeeze(x, model.preprocess.gain)
            squeezed = class_logits(model.activations(view)[0], model.spec.head)
            change = root_mean_square(view - x)
        picture = Picture(model.preprocess)(x, torch.from_numpy(images))
        aligned = aligned_of(
            model, x, exact=Alignment.name in guard.names, foretold=beside.gradient
        )
        scores, fused, quality = guard(
            torch.cat(taps, dim=1), own, squeezed, change, *beside(x), *picture, aligned
        )
        answers = (raw, probabilities(raw, model.spec.head), scores, fused, quality)
    return Readings(*(answer.numpy() for answer in answers))


def aligned_of(
    model: DiagnosticModel, x: Tensor, *, exact: bool, foretold: SyntheticGradient | None
) -> Tensor:
    """``float32[N, 0, 2 or 3]``: ``Features.aligned`` of the network's inputs, by torch's own
    gradient, the synthetic one, both or neither."""
    if not exact and foretold is None:
        return x[:, :0, 0, 0]
    weights = Seed(model.spec.head)
    raw, gradient = gradient_of(model, x, weights)
    rows = AlignedRows(model.preprocess.gain, foretold)
    with torch.no_grad():
        columns: Tensor = rows(x, weights(raw), gradient if exact else None)
    return columns
