"""A guard that costs what a fitted one costs, around a model that nothing was fitted on.

Speed depends on what is computed, not on the values: detectors are fitted by their own code, on
features that are drawn instead of measured, as many as ``lazaret fit`` takes by default. What such
a guard says means nothing, so its calibration lets everything by. There is no second stage: it
would look at nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from benchmarks.resnets import build
from detectors.alignment import Alignment, SyntheticAlignment
from detectors.bundle import (
    CALIBRATION,
    GRAPH,
    Alphas,
    DetectorEntry,
    Manifest,
    calibration_arrays,
    levels_for,
    sha256,
    write_manifest,
)
from detectors.calibrate import Calibration, Cell
from detectors.feature_graph import feature_graph
from detectors.fit import fit_guard, tap_widths
from detectors.guard import TRIAGE, fuse
from detectors.measured_split import MeasuredSplit
from detectors.picture import Picture
from detectors.samples import Measured
from detectors.side_networks import SideNetworks
from detectors.synthetic_gradient import SyntheticGradient
from models.diagnostic import DiagnosticModel
from models.imaging.rendering import RenderingPolicy
from models.spec import ModelSpec, Preprocessing

CLEAN, BENIGN, ATTACKED = 500, 1000, 640
"""Images of a split as ``lazaret fit`` takes them: 500 clean ones, shifted ones, attacked ones."""


def resnet(name: str, side: int = 224) -> DiagnosticModel:
    """An untrained ResNet for colour images, decoded at a fraction of a JPEG's size."""
    preprocessing = Preprocessing(
        channels=3, resize=(side, side), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
        rendering=RenderingPolicy(jpeg=(side, side)),
    )  # fmt: skip
    spec = ModelSpec(name=name, classes=("NO", "YES"), preprocessing=preprocessing)
    return DiagnosticModel(spec, build(name, 2))


def guarded(model: DiagnosticModel, names: tuple[str, ...] = TRIAGE) -> bytes:
    """The fused graph of ``model`` under a guard with these detectors."""
    widths, classes = tap_widths(model), len(model.spec.classes)
    squeezed = "agreement" in names
    picture = Picture(model.preprocess)
    splits = [_drawn(seed, sum(widths), classes, squeezed, picture) for seed in (1, 2)]
    guard = fit_guard(splits[0], splits[1], widths, classes, names)
    channels, logits = model.spec.preprocessing.channels, model.spec.logits
    foretold = SyntheticGradient(channels, logits) if SyntheticAlignment.name in names else None
    features = feature_graph(
        model,
        squeezed,
        SideNetworks(gradient=foretold).eval(),
        grain="grain" in names,
        aligned=Alignment.name in names,
    )
    graph: bytes = fuse(features, guard).SerializeToString()
    return graph


def write_stand_in(folder: Path, model: DiagnosticModel, names: tuple[str, ...] = TRIAGE) -> Path:
    """A bundle around ``guarded`` that accepts every image."""
    folder.mkdir(parents=True)
    classes = len(model.spec.classes)
    never = np.full(999, np.finfo(np.float32).max, np.float32)
    cell = Cell(never, never, np.repeat(never[:, None], len(names), axis=1))
    alphas = Alphas()
    files = {
        GRAPH: guarded(model, names),
        CALIBRATION: save(calibration_arrays(Calibration((cell,) * classes))),
    }
    for file, content in files.items():
        (folder / file).write_bytes(content)
    write_manifest(
        folder,
        Manifest(
            model=model.spec,
            detectors=tuple(DetectorEntry(name=name) for name in names),
            tap_widths=tap_widths(model),
            alphas=alphas,
            levels=(levels_for(cell, alphas),) * classes,
            files={file: sha256(content) for file, content in files.items()},
        ),
    )
    return folder


def _drawn(seed: int, width: int, classes: int, squeezed: bool, picture: Picture) -> MeasuredSplit:
    rng = np.random.default_rng(seed)
    labels = np.arange(BENIGN) % classes

    def measured(predicted: np.ndarray, shift: float) -> Measured:
        n = len(predicted)
        logits = rng.normal(0, 1, (n, classes)) + 4 * np.eye(classes)[predicted]
        taps = rng.normal(shift, 1, (n, width)) + 0.2 * predicted[:, None]
        again = logits + rng.normal(0, 0.3 + shift, (n, classes))
        arrays = (
            np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), taps, logits,
            again if squeezed else np.empty((n, 0)),
            rng.uniform(0.01, 0.1, n) if squeezed else np.zeros(n),
            np.empty((n, 0)), np.empty((n, 0)), rng.normal(0, 1, (n, picture.width)),
            rng.normal(0, 1, (n, picture.grain_width)),
            np.stack([rng.normal(0.05 * shift, 0.01, n), rng.uniform(1, 2, n)], axis=1),
        )  # fmt: skip
        return Measured(*(array.astype(np.float32) for array in arrays))

    return MeasuredSplit(
        benign=measured(labels, 0.0),
        benign_labels=labels.astype(np.int64),
        benign_groups=tuple(str(i % CLEAN) for i in range(BENIGN)),
        clean=CLEAN,
        attacked=measured(np.arange(ATTACKED) % classes, 0.5),
        attacked_groups=tuple(str(i % CLEAN) for i in range(ATTACKED)),
        origins=("pgd",) * ATTACKED,
        levels=np.ones(ATTACKED, np.float32),
    )
