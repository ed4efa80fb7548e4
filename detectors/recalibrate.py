"""A bundle calibrated again on scores that its own graph gave: a new bundle, the guard unchanged.

Torch-free. Nothing is fitted; only ``calibration.safetensors``, the levels and the manifest differ.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from detectors.bundle import (
    CALIBRATION,
    Bundle,
    CellLevels,
    calibration_arrays,
    levels_for,
    levels_of,
    sha256,
    write_manifest,
)
from detectors.calibrate import (
    Calibration,
    Cell,
    PValues,
    assured_level,
    binomial_cdf,
    conformal_p,
    images_needed,
    images_needed_on_average,
)
from detectors.card import card
from detectors.manifest_file import SIGNATURE

CARD = "card.md"
ANCESTORS = "recalibrated_from"
"""In a manifest's provenance: the digests of the bundles with the same graph that came before."""
FOLDS = 5


class RecalibrationProblem(Exception):
    """Scores that no bundle can be calibrated on. The message says what is missing."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What one bundle's graph said of N benign images."""

    predicted: npt.NDArray[np.intp]
    """``intp[N]``."""
    fused: npt.NDArray[np.float32]
    quality: npt.NDArray[np.float32]
    detectors: npt.NDArray[np.float32]
    """``float32[N, D]``, columns in the manifest's order."""
    sources: tuple[str, ...] = ()
    """The client or peer that sent each image; empty when nobody says."""

    def __len__(self) -> int:
        return len(self.fused)

    def rows(self, index: npt.NDArray[np.intp]) -> Scores:
        """The images at ``index``."""
        return Scores(
            self.predicted[index],
            self.fused[index],
            self.quality[index],
            self.detectors[index],
            tuple(self.sources[i] for i in index) if self.sources else (),
        )


@dataclass(frozen=True, slots=True)
class Share:
    """How many of some images were flagged, with its exact 95 % interval (Clopper-Pearson)."""

    flagged: int
    images: int

    @property
    def value(self) -> float:
        """NaN without images."""
        return self.flagged / self.images if self.images else float("nan")

    def interval(self) -> tuple[float, float]:
        """Of the rate behind the share."""
        k, n = self.flagged, self.images
        if n == 0:
            return 0.0, 1.0
        low = 0.0 if k == 0 else _solve(lambda p: 1 - binomial_cdf(k - 1, n, p), 0.025)
        high = 1.0 if k == n else _solve(lambda p: -binomial_cdf(k, n, p), -0.025)
        return low, high


@dataclass(frozen=True, slots=True)
class Row:
    """One class, or all: realised false-positive rates before and after, adversarial route."""

    name: str
    before: Share
    """At the levels in use."""
    after: Share
    """At new levels, each image by a calibration that has not seen it."""
    kept: bool = False
    """Too few images: the class keeps its old calibration."""


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """The new calibration, and what it changes."""

    calibration: Calibration
    levels: tuple[CellLevels, ...]
    rows: tuple[Row, ...]
    """By class; the last is all of them."""
    source_levels: dict[str, tuple[CellLevels | None, ...]]


def recalibrate(
    bundle: Bundle, scores: Scores, seed: int = 0, *, by_source: bool = False
) -> Recalibrated:
    """Calibrate on ``scores``, by predicted class; quality over all classes. A class with fewer
    images than its flag level needs keeps what else it has, and so does quality with fewer than its
    own.

    Sources that have cells of their own get new ones likewise; with ``by_source`` all that sent
    enough do.

    Raises:
        RecalibrationProblem: that is every class.
    """
    manifest, alphas = bundle.manifest, bundle.manifest.alphas
    least = images_needed(alphas.flag)
    fresh = np.sort(scores.quality)
    enough = len(fresh) >= images_needed_on_average(alphas.quality)
    cells, levels, rows = [], [], []
    for index, name in enumerate(manifest.model.classes):
        old = bundle.calibration.cells[index]
        quality = fresh if enough else old.quality
        own = scores.rows(np.flatnonzero(scores.predicted == index))
        before = Share(_flagged_in_use(bundle, own), len(own))
        if len(own) < least:
            cells.append(replace(old, quality=quality))
            new = levels_for(cells[-1], alphas)
            levels.append(manifest.levels[index].model_copy(update={"quality": new.quality}))
            rows.append(Row(name, before, before, kept=True))
            continue
        cells.append(_cell(own, quality))
        levels.append(levels_for(cells[-1], alphas))
        rows.append(Row(name, before, _held_out(own, alphas.flag, seed)))
    if all(row.kept for row in rows):
        raise RecalibrationProblem(
            f"no class has the {least} reviewed images that a false-positive rate of "
            f"{alphas.flag:g} needs (found: "
            + ", ".join(f"{row.name} {row.before.images}" for row in rows)
            + "); wait for more traffic, or look further back with --days"
        )
    everything = Row("all", _sum([r.before for r in rows]), _sum([r.after for r in rows]))
    sources = _sources(bundle, scores, least, by_source)
    calibration = Calibration(tuple(cells), sources)
    kept = manifest.source_levels
    return Recalibrated(
        calibration,
        tuple(levels),
        (*rows, everything),
        {
            source: tuple(
                kept[source][c]
                if source in kept and cell is bundle.calibration.sources[source][c]
                else (None if cell is None else levels_for(cell, alphas))
                for c, cell in enumerate(own)
            )
            for source, own in sources.items()
        },
    )


def _sources(
    bundle: Bundle, scores: Scores, least: int, every: bool
) -> dict[str, tuple[Cell | None, ...]]:
    """New cells where a source sent ``least`` images of a class, the old ones elsewhere."""
    old = bundle.calibration.sources
    sent = np.array(scores.sources or [""] * len(scores))
    classes = range(len(bundle.manifest.model.classes))

    def cell(source: str, c: int) -> Cell | None:
        rows = np.flatnonzero((sent == source) & (scores.predicted == c))
        if len(rows) >= least:
            return _cell(scores.rows(rows), np.sort(scores.quality[sent == source]))
        return old[source][c] if source in old else None

    names = {*old, *(scores.sources if every else ())} - {""}
    return {source: tuple(cell(source, c) for c in classes) for source in sorted(names)}


def write(bundle: Bundle, new: Recalibrated, out: Path, provenance: Mapping[str, Any]) -> Bundle:
    """Write the recalibrated bundle into ``out``, which must not exist. It is not signed."""
    manifest = bundle.manifest
    data = save(calibration_arrays(new.calibration))
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(bundle.directory, partial, ignore=shutil.ignore_patterns(SIGNATURE))
    (partial / CALIBRATION).write_bytes(data)
    ancestors = [bundle.digest, *manifest.provenance.get(ANCESTORS, [])]
    changed = manifest.model_copy(
        update={
            "levels": new.levels,
            "source_levels": new.source_levels,
            "provenance": {**manifest.provenance, **provenance, ANCESTORS: ancestors},
            "files": {**manifest.files, CALIBRATION: sha256(data)},
        }
    )
    write_manifest(partial, changed)
    (partial / CARD).write_text(card(changed))
    partial.rename(out)
    return Bundle.open(out)


def _cell(scores: Scores, quality: npt.NDArray[np.float32]) -> Cell:
    return Cell(np.sort(scores.fused), quality, np.sort(scores.detectors, axis=0))


def _flagged(fused: npt.NDArray[np.float32], level: float | None, scores: Scores) -> int:
    if level is None:
        return 0
    return sum(conformal_p(fused, float(score)) <= level for score in scores.fused)


def _flagged_in_use(bundle: Bundle, scores: Scores) -> int:
    """By the cells and levels that judge each image today."""
    manifest, flagged = bundle.manifest, 0
    for i, predicted in enumerate(scores.predicted):
        cell, source = bundle.calibration.cell(
            int(predicted), scores.sources[i] if scores.sources else None
        )
        fused = conformal_p(cell.fused, float(scores.fused[i]))
        p = PValues(int(predicted), fused, quality=1.0, detectors=(), source=source)
        level = levels_of(p, manifest.levels, manifest.source_levels).flag
        flagged += level is not None and p.fused <= level
    return flagged


def _held_out(scores: Scores, alpha: float, seed: int) -> Share:
    """Every image judged by a calibration on the other folds."""
    fold = np.random.default_rng(seed).permutation(len(scores)) % FOLDS
    flagged = 0
    for k in range(FOLDS):
        rest, own = scores.rows(np.flatnonzero(fold != k)), scores.rows(np.flatnonzero(fold == k))
        flagged += _flagged(np.sort(rest.fused), assured_level(len(rest), alpha), own)
    return Share(flagged, len(scores))


def _sum(shares: list[Share]) -> Share:
    return Share(sum(s.flagged for s in shares), sum(s.images for s in shares))


def _solve(rising: Any, target: float) -> float:
    """Where a rising function of a rate reaches ``target``, by bisection."""
    low, high = 1e-12, 1 - 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        if rising(middle) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2
