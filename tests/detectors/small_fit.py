"""What a guard of a small network is fitted on: noise, and attacks unlike any of it."""

from __future__ import annotations

import numpy as np
import torch

from detectors.fit import FitSplit
from detectors.samples import Samples
from models.diagnostic import DiagnosticModel
from models.resnet import resnet
from models.spec import ModelSpec, Preprocessing

SIDE = 32


def noise(count: int, seed: int) -> np.ndarray:
    """Images of noise, some strong and some faint."""
    rng = np.random.default_rng(seed)
    strength = rng.uniform(0.1, 1, (count, 1, 1, 1))
    return (rng.integers(0, 256, (count, SIDE, SIDE, 1)) * strength).astype(np.uint8)


def small_fit() -> tuple[DiagnosticModel, FitSplit, FitSplit, Samples]:
    """A model, its reference and fusion splits and its calibration images."""
    torch.manual_seed(0)
    spec = ModelSpec(
        name="small", classes=("a", "b"), preprocessing=Preprocessing(resize=(SIDE, SIDE))
    )
    model = DiagnosticModel(spec, resnet([4, 8], [1, 1], 1, 2))
    with torch.no_grad():
        logits = model(torch.from_numpy(noise(100, 9)))
        model.network.classify.bias -= logits.median(dim=0).values

    def samples(count: int, seed: int, labels: np.ndarray | None = None) -> Samples:
        images = noise(count, seed)
        if labels is not None:
            images = images // 4 + 150  # unlike any other: triage must learn something
        with torch.no_grad():
            said = model(torch.from_numpy(images)).argmax(dim=1).numpy()
        names = tuple(str(i) for i in range(count))
        attacked = labels is not None
        return Samples(
            tuple(images), labels if attacked else said, names, names,
            "pgd" if attacked else "clean", 1.0 if attacked else 0.0, attacked,
        )  # fmt: skip

    splits = []
    for seed in (1, 2):
        clean = samples(60, seed)
        splits.append(FitSplit((clean,), (samples(60, seed + 10, clean.labels),)))
    return model, splits[0], splits[1], samples(400, 3)
