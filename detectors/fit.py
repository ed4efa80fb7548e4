"""Fit a guard and write its bundle.

``reference`` fits the detectors, ``fusion`` learns how to weigh them, ``calibration`` turns scores
into p-values. The three share no patient, and none of them is a patient of the test split or of the
model's training.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from detectors.acceptance import accept
from detectors.bundle import (
    CALIBRATION,
    GRAPH,
    Alphas,
    Bundle,
    DetectorEntry,
    Manifest,
    calibration_arrays,
    levels_for,
    sha256,
    source_levels_for,
    write_manifest,
)
from detectors.calibrate import Calibration, images_needed
from detectors.canaries import CANARIES, as_bytes
from detectors.canary_choice import choose
from detectors.card import card
from detectors.feature_graph import feature_graph
from detectors.fixture import FIXTURE
from detectors.guard import DEFAULT, DETECTORS, Guard, fuse
from detectors.measured_split import MeasuredSplit, fit_arguments
from detectors.samples import Samples, measure, run_graph
from models.diagnostic import DiagnosticModel
from models.engine import READING, Readings
from models.load import OnnxModel
from models.onnx_engine import OnnxEngine

FITTED_ON = "fitted_on.safetensors"
CARD = "card.md"


class FitProblem(Exception):
    """Data that no guard can be fitted on. The message says what is missing."""


@dataclass(frozen=True, slots=True)
class FitSplit:
    """One split's images. ``benign`` starts with the clean ones that all others were made from."""

    benign: tuple[Samples, ...]
    attacked: tuple[Samples, ...]

    def __len__(self) -> int:
        return sum(len(samples) for samples in (*self.benign, *self.attacked))


def fit_guard(
    reference: MeasuredSplit,
    fusion: MeasuredSplit,
    widths: Sequence[int],
    classes: int,
    names: Sequence[str] = DEFAULT,
) -> Guard:
    """Fit detectors on ``reference`` and their fusion on ``fusion``. Raises ``FitProblem``."""
    for split, title in ((reference, "reference"), (fusion, "fusion")):
        if len(split.origins) < 2 * classes:
            raise FitProblem(
                f"only {len(split.origins)} attacks succeeded on the {title} split; attack more "
                "images or with a larger epsilon"
            )
    guard = Guard([DETECTORS[name]() for name in names], widths, classes)
    arguments = fit_arguments(reference, widths)
    for detector in guard.detectors:
        detector.fit(*arguments)  # type: ignore[operator]  # Modules to torch
    clean = np.arange(reference.clean)
    guard.quality.fit(
        reference.benign.rows(clean).features(widths),
        arguments[1][: reference.clean],
        arguments[2],
        torch.cat([arguments[3][: reference.clean], arguments[3][len(arguments[1]) :]]),
    )
    with torch.no_grad():
        guard.fusion.fit(
            guard.scores(fusion.benign.features(widths)),
            guard.scores(fusion.attacked.features(widths)),
        )
    return guard.eval()


def fit(
    model: DiagnosticModel | OnnxModel,
    reference: FitSplit,
    fusion: FitSplit,
    calibration: Samples,
    out: Path,
    *,
    names: Sequence[str] = DEFAULT,
    alphas: Alphas | None = None,
    provenance: dict[str, Any] | None = None,
    canaries: int = 2,
    progress: Callable[[int], None] = lambda _: None,
) -> Bundle:
    """Fit a guard for ``model`` and write its bundle into ``out``, which must not exist.

    Args:
        canaries: clean and adversarial images each, of the fusion split, that the bundle keeps for
            ``lazaret serve`` to send; 0 keeps a bundle free of images.

    The bundle is written beside ``out`` and renamed into place when its own acceptance has passed:
    torch and ONNX Runtime agree on a fixture. Raises ``FitProblem`` and ``AcceptanceProblem``.
    """
    alphas = alphas or Alphas()
    spec = model.spec
    squeezed = "agreement" in names
    features = feature_graph(model, squeezed)
    engine = OnnxEngine(features.SerializeToString())
    splits = []
    for split in (reference, fusion):
        benign = [(samples, measure(engine, samples, progress)) for samples in split.benign]
        attacked = [(samples, measure(engine, samples, progress)) for samples in split.attacked]
        splits.append(MeasuredSplit.build(benign, attacked))
    widths = tap_widths(model)
    guard = fit_guard(splits[0], splits[1], widths, len(spec.classes), names)
    graph = fuse(features, guard).SerializeToString()
    fused = OnnxEngine(graph)
    readings = Readings(*run_graph(fused, calibration.images, READING, progress))
    cells = Calibration.learn(
        readings, len(spec.classes), calibration.sources, images_needed(alphas.flag)
    )
    levels = tuple(levels_for(cell, alphas) for cell in cells.cells)
    fixture = accept(model, guard, fused, cells)
    sent = choose(fusion.benign[0], fusion.attacked, canaries, fused, cells, levels)
    files = {
        GRAPH: graph,
        CALIBRATION: save(calibration_arrays(cells)),
        FIXTURE: save(fixture),
        FITTED_ON: save({**splits[0].arrays("reference"), **splits[1].arrays("fusion")}),
    }
    if sent:
        files[CANARIES] = as_bytes(sent)
    manifest = Manifest(
        model=spec,
        detectors=tuple(DetectorEntry(name=name) for name in guard.names),
        tap_widths=widths,
        alphas=alphas,
        levels=levels,
        source_levels=source_levels_for(cells, alphas),
        provenance=provenance or {},
        files={name: sha256(data) for name, data in files.items()},
    )
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, data in files.items():
        (partial / name).write_bytes(data)
    write_manifest(partial, manifest)
    (partial / CARD).write_text(card(manifest))
    partial.rename(out)
    return Bundle.open(out)


def tap_widths(model: DiagnosticModel | OnnxModel) -> tuple[int, ...]:
    """Width of every pooled tap."""
    if isinstance(model, OnnxModel):
        return model.tap_widths
    preprocessing = model.spec.preprocessing
    with torch.no_grad():
        _, taps = model.activations(torch.zeros(1, preprocessing.channels, *preprocessing.size))
    return tuple(tap.shape[1] for tap in taps)
