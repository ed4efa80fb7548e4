"""Attacks that the guard was not fitted on: fit it again without them, and meet them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.numpy import load

from detectors.bundle import Bundle
from detectors.evaluation import LeftOut
from detectors.fit import FITTED_ON, FitProblem, fit_guard
from detectors.judgement import HEADLINE_FPR, Attacked, Judgement, share, threshold
from detectors.measured_split import MeasuredSplit
from detectors.statistics import auc


@dataclass(frozen=True, slots=True)
class Omission:
    """What a guard is not shown when it is fitted: one family or one epsilon."""

    family: str | None
    level: float | None

    @property
    def title(self) -> str:
        """For tables."""
        return self.family or f"epsilon {self.level:g}"

    def covers(self, origin: str, level: float) -> bool:
        """Whether an attack is among what is left out."""
        return origin == self.family or level == self.level

    def applied(self, split: MeasuredSplit) -> MeasuredSplit:
        """The split without it."""
        return split.keep(
            np.array(
                [
                    not self.covers(origin, float(level))
                    for origin, level in zip(split.origins, split.levels, strict=True)
                ]
            )
        )


def fitted_families(bundle: Bundle) -> frozenset[str]:
    """Attacks that the bundle's guard was fitted on."""
    arrays = load(bundle.read(FITTED_ON))
    return frozenset(MeasuredSplit.from_arrays(arrays, "reference").origins)


def leave_out(
    bundle: Bundle,
    clean: Judgement,
    hit: Sequence[tuple[Attacked, Judgement]],
    row: dict[str, int],
    names: Sequence[str],
    seed: int,
) -> tuple[LeftOut, ...]:
    """Fit the guard again without one family, then without one epsilon, and meet it. Where
    an omission leaves too few successful attacks to fit on, as of a model that hardly falls to any
    other, its rows have no numbers."""
    arrays = load(bundle.read(FITTED_ON))
    reference = MeasuredSplit.from_arrays(arrays, "reference")
    fusion = MeasuredSplit.from_arrays(arrays, "fusion")
    widths, classes = bundle.manifest.tap_widths, len(bundle.manifest.model.classes)
    negatives = clean.measured.features(widths)
    omissions = [Omission(family, None) for family in sorted(set(reference.origins))]
    omissions += [Omission(None, level) for level in sorted(set(reference.levels.tolist()))]
    results = []
    for omission in omissions:
        met = [(a, j) for a, j in hit if omission.covers(a.samples.origin, a.samples.level)]
        if not met:
            continue
        try:
            guard = fit_guard(
                omission.applied(reference), omission.applied(fusion), widths, classes, names
            )
        except FitProblem:
            nothing = share(np.zeros(0, np.bool_), [])
            results += [
                LeftOut(omission.title, a.samples.origin, a.samples.level, math.nan, nothing)
                for a, _ in met
            ]
            continue
        with torch.no_grad():
            benign = guard.fusion(guard.scores(negatives)).numpy().astype(float)
            limit = threshold(benign, HEADLINE_FPR)
            for attacked, found in met:
                scores = guard.fusion(guard.scores(found.measured.features(widths))).numpy()
                source = np.array([row[key] for key in attacked.samples.keys], dtype=np.intp)
                eligible = np.flatnonzero(clean.right[source])
                wrong = ~found.right[eligible]
                harm = wrong & ~(scores[eligible] > limit)
                results.append(
                    LeftOut(
                        left_out=omission.title,
                        attack=attacked.samples.origin,
                        epsilon=attacked.samples.level,
                        auc=auc(benign, scores[eligible][wrong].astype(float)),
                        undetected_harm=share(
                            harm, [attacked.samples.groups[i] for i in eligible], seed
                        ),
                    )
                )
    return tuple(results)
