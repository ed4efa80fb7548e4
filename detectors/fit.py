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
from detectors.alignment import Alignment, SyntheticAlignment
from detectors.attacks_held import attacks_held
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
from detectors.grain import Grain
from detectors.guard import DETECTORS, IN_FULL, Guard, fuse
from detectors.measured_split import MeasuredSplit, fit_arguments
from detectors.samples import Samples, group_numbers, joined, measure, run_graph
from detectors.second_graph import second_graph
from detectors.second_stage import SECOND, SECOND_GRAPH
from detectors.second_stage_fit import SecondStageProblem, fit_second_stage
from detectors.shortfalls import HELD, SYNTHETIC, WITNESS
from detectors.side_networks import (
    SideNetworks,
    Taught,
    followed,
    foresight,
    teach,
    teach_gradient,
)
from detectors.staged_engine import EVALUATION_KEY, StagedEngine
from models.diagnostic import DiagnosticModel
from models.engine import READING, Readings
from models.load import OnnxModel
from models.onnx_engine import OnnxEngine
from models.preprocess import Preprocess

FITTED_ON = "fitted_on.safetensors"
FORESEEN = 100
"""Images, at most, that tell how well a gradient is foretold."""
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
    names: Sequence[str] = IN_FULL,
) -> Guard:
    """Fit detectors on ``reference``, their fusion on ``fusion`` and the quality score, which is
    not fused, on the clean images of both. Raises ``FitProblem``."""
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
    clean = joined([split.benign.rows(np.arange(split.clean)) for split in (reference, fusion)])
    labels = [split.benign_labels[: split.clean] for split in (reference, fusion)]
    patients = [
        f"{title}/{group}"
        for split, title in ((reference, "reference"), (fusion, "fusion"))
        for group in split.benign_groups[: split.clean]
    ]
    features = clean.features(widths)
    guard.quality.fit(
        features,
        torch.from_numpy(np.concatenate(labels)),
        features.rows(torch.arange(0)),
        group_numbers(patients),
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
    names: Sequence[str] = IN_FULL,
    alphas: Alphas | None = None,
    provenance: dict[str, Any] | None = None,
    canaries: int = 2,
    unlabelled: Sequence[Samples] = (),
    seed: int = 0,
    views: int = 0,
    share: float = 0.1,
    progress: Callable[[int], None] = lambda _: None,
    taught: Taught = lambda *_: None,
) -> Bundle:
    """Fit a guard for ``model`` and write its bundle into ``out``, which must not exist.

    Args:
        canaries: clean and adversarial images each, of the fusion split, that the bundle keeps for
            ``lazaret serve`` to send; 0 keeps a bundle free of images.
        unlabelled: further images, of the model's training, say, from whose answers the witness's
            student learns too. No detector, fusion or calibration sees them.
        seed: of the training of the networks beside the model and of the second stage's views.
        views: random views that a second stage takes of an image; 0: no second stage.
        share: of clean images, about, that the second stage looks at.
        progress: told how many images have been measured since.
        taught: told which network beside the model has taken how many of how many steps.

    The bundle is written beside ``out`` and renamed into place when its own acceptance has passed:
    torch and ONNX Runtime agree on a fixture. Raises ``FitProblem`` and ``AcceptanceProblem``.
    """
    alphas = alphas or Alphas()
    spec = model.spec
    squeezed = "agreement" in names
    grain = Grain.name in names
    aligned = Alignment.name in names
    foretold = None
    if SyntheticAlignment.name in names:
        differentiable = model if isinstance(model, DiagnosticModel) else model.differentiable
        if differentiable is None:
            raise FitProblem(f"{SyntheticAlignment.name} needs a model that torch can follow")
        parts = (*reference.benign, *unlabelled)
        foretold = teach_gradient(
            differentiable, [image for samples in parts for image in samples.images], seed, taught
        )
        seen_first = fusion.benign[0].images[:FORESEEN]
        provenance = {
            **(provenance or {}),
            SYNTHETIC: foresight(foretold, differentiable, seen_first),
        }
    ahead = SideNetworks(gradient=foretold)
    features = feature_graph(model, squeezed, ahead, grain=grain, aligned=aligned)
    engine = OnnxEngine(features.SerializeToString())
    measured = [
        [
            [(samples, measure(engine, samples, progress)) for samples in part]
            for part in (split.benign, split.attacked)
        ]
        for split in (reference, fusion)
    ]
    seen = [(samples, measure(engine, samples, progress)) for samples in unlabelled]
    beside = teach(names, spec, [*measured[0][0], *seen], reference.attacked, seed, taught)
    beside.gradient = foretold
    if beside.present:
        preprocess = Preprocess(spec.preprocessing)
        measured = [
            [[(s, beside.complete(preprocess, s, m)) for s, m in part] for part in split]
            for split in measured
        ]
        features = feature_graph(model, squeezed, beside, grain=grain, aligned=aligned)
    if beside.student is not None:
        # on the fusion split's clean images, which the student has not seen
        provenance = {**(provenance or {}), WITNESS: followed(measured[1][0][0][1])}
    splits = [MeasuredSplit.build(benign, attacked) for benign, attacked in measured]
    widths = tap_widths(model)
    guard = fit_guard(splits[0], splits[1], widths, len(spec.classes), names)
    graph = fuse(features, guard).SerializeToString()
    first = fused = OnnxEngine(graph)
    second: dict[str, bytes] = {}
    stage = None
    if views:
        looking = second_graph(model).SerializeToString()
        try:
            stage = fit_second_stage(model.spec, first, looking, fusion.benign, views, share, seed)
        except SecondStageProblem as problem:
            raise FitProblem(str(problem)) from None
        second = {SECOND_GRAPH: looking, SECOND: stage.as_bytes()}
        fused = StagedEngine(graph, looking, stage, EVALUATION_KEY)
    readings = Readings(*run_graph(fused, calibration.images, READING, progress))
    cells = Calibration.learn(
        readings, len(spec.classes), calibration.sources, images_needed(alphas.flag)
    )
    levels = tuple(levels_for(cell, alphas) for cell in cells.cells)
    held, successes = attacks_held(fused, measured[1][0][0], measured[1][1], cells, levels)
    provenance = {**(provenance or {}), HELD: {"held": held, "of": successes}}
    fixture = accept(model, guard, beside, first, cells)
    sent = choose(fusion.benign[0], fusion.attacked, canaries, fused, cells, levels)
    files = {
        GRAPH: graph,
        CALIBRATION: save(calibration_arrays(cells)),
        FIXTURE: save(fixture),
        FITTED_ON: save({**splits[0].arrays("reference"), **splits[1].arrays("fusion")}),
        **second,
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
        second_stage=None if stage is None else stage.entry,
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
