"""Judge a bundle on test patients by the project's rules of evidence.

Nothing here is fitted on what it judges. Thresholds are stated as false-positive rates. Without a
passing null test there is no evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load

from detectors.bundle import Bundle
from detectors.evaluation import (
    FPRS,
    AttackResult,
    CleanResult,
    Discrimination,
    Estimate,
    Evaluation,
    Judged,
    LeftOut,
    ShiftResult,
)
from detectors.fit import FITTED_ON, fit_guard
from detectors.guard import DETECTORS
from detectors.measured_split import MeasuredSplit
from detectors.null_test import null_test, refitted_null_test
from detectors.paper_protocol import null, paper_protocol
from detectors.samples import FIELDS, Measured, Samples, group_numbers, run_graph
from detectors.statistics import auc, bootstrap_over_groups, proportion_interval
from models.engine import READING, Readings
from models.onnx_engine import OnnxEngine

Flags = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float64]
HEADLINE_FPR = 0.01
DRAWS = 300  # of the bootstrap; more only smooths the interval's second digit


class EvaluationProblem(Exception):
    """An evaluation that must not be written. The message says why."""


@dataclass(frozen=True, slots=True)
class Attacked:
    """An attack's delivered images, with what only the attacker knows."""

    samples: Samples
    linf: float
    success_float: float
    """NaN where float pixels were not judged."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Samples as the served graph reads them and the bundle's levels judge them."""

    samples: Samples
    measured: Measured
    readings: Readings
    right: Flags
    adversarial: Flags
    """Flagged or rejected by the adversarial route."""
    quality: Flags
    """Flagged by the quality route alone."""

    @property
    def accepted(self) -> Flags:
        """``bool[N]``."""
        return ~(self.adversarial | self.quality)


def judge(
    bundle: Bundle,
    engine: OnnxEngine,
    samples: Samples,
    progress: Callable[[int], None] = lambda _: None,
) -> Judgement:
    """Read samples with the fused graph and apply the bundle's levels."""
    outputs = run_graph(engine, samples.images, (*READING, *FIELDS[1:]), progress)
    readings = Readings(*outputs[: len(READING)])
    measured = Measured(readings.probabilities, *outputs[len(READING) :])
    adversarial, quality = [], []
    for p in bundle.calibration.p_values(readings):
        level = bundle.manifest.levels[p.predicted]
        # a p-value that is not a number is an answer that did not come: held
        suspicious = not p.fused > (level.flag or 0.0)
        adversarial.append(suspicious)
        quality.append(not suspicious and not p.quality > (level.quality or 0.0))
    return Judgement(
        samples,
        measured,
        readings,
        measured.predicted == samples.labels,
        np.array(adversarial, dtype=np.bool_),
        np.array(quality, dtype=np.bool_),
    )


def evaluate(
    bundle: Bundle,
    clean: Samples,
    attacks: Sequence[Attacked],
    shifts: Sequence[Samples],
    others: Sequence[Samples],
    *,
    provenance: dict[str, Any],
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Evaluate ``bundle``.

    Args:
        clean: the test images. Attacks and shifts were made from some or all of them (same keys).
        others: images that are not for this model; their labels do not count.
        progress: called with the number of images just read.

    Raises ``EvaluationProblem`` when a test patient was used for fitting or the null test fails.
    """
    engine = OnnxEngine(bundle.graph)
    names = tuple(entry.name for entry in bundle.manifest.detectors)
    widths = bundle.manifest.tap_widths
    judged = judge(bundle, engine, clean, progress)
    columns = _columns(judged, names)
    nulls = null_test(columns, clean.groups, seed=seed)
    penultimate = judged.measured.taps[:, -widths[-1] :].astype(np.float64)
    benign = judged.measured.features(widths)
    refitted = refitted_null_test(
        [DETECTORS[name]() for name in names],
        benign,
        torch.from_numpy(clean.labels),
        group_numbers(clean.groups),
        seed=seed,
    )
    for result in (*nulls, *refitted):
        if not result.passed:
            raise EvaluationProblem(
                f"the null test fails for {result.detector}: benign against benign has AUC "
                f"{result.auc:.3f} ({result.low:.3f} to {result.high:.3f}); the evaluation leaks "
                "or the splits differ, so no report is written"
            )
    row = {key: i for i, key in enumerate(clean.keys)}
    results = []
    hit: list[tuple[Attacked, Judgement]] = []
    for attacked in attacks:
        found = judge(bundle, engine, attacked.samples, progress)
        hit.append((attacked, found))
        results.append(_attack(judged, attacked, found, row, names, penultimate, widths, seed))
    return Evaluation(
        bundle=bundle.digest,
        model=f"{bundle.manifest.model.name} {bundle.manifest.model.version}",
        detectors=names,
        provenance=provenance,
        clean=_clean(bundle, judged),
        null=nulls,
        null_refitted=refitted,
        null_paper=null(penultimate[judged.right], clean.labels[judged.right], seed),
        attacks=tuple(results),
        left_out=_leave_out(bundle, judged, hit, row, names, seed),
        shifts=tuple(_shift(judged, judge(bundle, engine, s, progress)) for s in shifts),
        others=tuple(_shift(judged, judge(bundle, engine, s, progress)) for s in others),
        cost={
            "graph_bytes": float(len(bundle.graph)),
            "bundle_bytes": float(sum(p.stat().st_size for p in bundle.directory.iterdir())),
        },
    )


def threshold(negative: Vector, fpr: float) -> float:
    """The score above which at most a share ``fpr`` of the negatives lies: a realised rate, for
    statements about this very test set. A deployment's threshold comes from calibration."""
    allowed = int(np.floor(len(negative) * fpr + 1e-9))
    return float(np.sort(negative)[len(negative) - 1 - allowed])


def _columns(judged: Judgement, names: Sequence[str]) -> dict[str, Vector]:
    columns = {name: judged.readings.scores[:, d].astype(float) for d, name in enumerate(names)}
    return {**columns, "fused": judged.readings.fused.astype(float)}


def _share(flags: Flags, groups: Sequence[str], seed: int = 0) -> Estimate:
    """A proportion; patients are drawn anew for its interval, which the exact one widens where a
    bootstrap of zero events would claim certainty."""
    if len(flags) == 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    low, high = bootstrap_over_groups(
        lambda rows: float(flags[rows].mean()), groups, n=DRAWS, seed=seed
    )
    exact = proportion_interval(int(flags.sum()), len(flags))
    return Estimate(float(flags.mean()), min(low, exact[0]), max(high, exact[1]))


def _attack(
    clean: Judgement,
    attacked: Attacked,
    found: Judgement,
    row: dict[str, int],
    names: Sequence[str],
    penultimate: Vector,
    widths: Sequence[int],
    seed: int,
) -> AttackResult:
    source = np.array([row[key] for key in attacked.samples.keys], dtype=np.intp)
    eligible = np.flatnonzero(clean.right[source])
    groups = [attacked.samples.groups[i] for i in eligible]
    wrong = ~found.right[eligible]
    negatives, positives = _columns(clean, names), _columns(found, names)
    fooled = positives["fused"][eligible]
    accepted = ~(fooled > threshold(negatives["fused"], HEADLINE_FPR))
    features = found.measured.taps[eligible][:, -widths[-1] :].astype(np.float64)
    moved = bool(wrong.any())
    return AttackResult(
        attack=attacked.samples.origin,
        epsilon=attacked.samples.level,
        images=len(eligible),
        linf=attacked.linf,
        success=_share(wrong, groups, seed),
        success_float=attacked.success_float,
        undetected_harm=_share(wrong & accepted, groups, seed),
        undetected_harm_served=_share(wrong & found.accepted[eligible], groups, seed),
        scores={
            name: Judged(
                _discrimination(
                    negatives[name],
                    clean.samples.groups,
                    positives[name][eligible][wrong],
                    [g for g, w in zip(groups, wrong, strict=True) if w],
                    seed,
                ),
                _discrimination(
                    negatives[name], clean.samples.groups, positives[name][eligible], groups, seed
                ),
            )
            for name in negatives
        },
        paper=paper_protocol(
            penultimate[source[eligible]],
            features,
            attacked.samples.labels[eligible],
            found.measured.predicted[eligible],
            seed,
        )
        if moved
        else None,
    )


def _discrimination(
    negative: Vector,
    negative_groups: Sequence[str],
    positive: Vector,
    positive_groups: Sequence[str],
    seed: int,
) -> Discrimination:
    scores = np.r_[negative, positive]
    attacked = np.r_[np.zeros(len(negative), bool), np.ones(len(positive), bool)]
    whole = _statistics(negative, positive)
    if len(positive) == 0:
        nothing = Estimate(float("nan"), float("nan"), float("nan"))
        return Discrimination(nothing, (nothing, nothing, nothing))
    rng = np.random.default_rng(seed)
    names, member = np.unique([*negative_groups, *positive_groups], return_inverse=True)
    even = np.full(len(names), 1 / len(names))
    draws = []
    for _ in range(DRAWS):
        rows = np.repeat(np.arange(len(scores)), rng.multinomial(len(names), even)[member])
        chosen, is_attacked = scores[rows], attacked[rows]
        if is_attacked.any() and not is_attacked.all():
            draws.append(_statistics(chosen[~is_attacked], chosen[is_attacked]))
    low, high = np.quantile(np.array(draws), [0.025, 0.975], axis=0)
    first, *rest = (
        Estimate(value, float(a), float(b)) for value, a, b in zip(whole, low, high, strict=True)
    )
    return Discrimination(first, (rest[0], rest[1], rest[2]))


def _statistics(negative: Vector, positive: Vector) -> list[float]:
    if len(positive) == 0:
        return [float("nan")] * (1 + len(FPRS))
    return [
        auc(negative, positive),
        *(float(np.mean(positive > threshold(negative, fpr))) for fpr in FPRS),
    ]


def _clean(bundle: Bundle, judged: Judgement) -> CleanResult:
    groups = judged.samples.groups
    predicted = judged.measured.predicted
    by_class = {}
    for c, name in enumerate(bundle.manifest.model.classes):
        rows = np.flatnonzero(predicted == c)
        by_class[name] = _share(judged.adversarial[rows], [groups[i] for i in rows])
    return CleanResult(
        images=len(judged.samples),
        patients=len(set(groups)),
        accuracy=_share(judged.right, groups),
        adversarial=_share(judged.adversarial, groups),
        quality=_share(judged.quality, groups),
        adversarial_by_class=by_class,
        errors_accepted=_share(~judged.right & judged.accepted, groups),
    )


def _shift(clean: Judgement, found: Judgement) -> ShiftResult:
    limit = threshold(clean.readings.fused.astype(float), HEADLINE_FPR)
    return ShiftResult(
        shift=found.samples.origin,
        severity=found.samples.level,
        images=len(found.samples),
        accuracy=float(found.right.mean()),
        adversarial=_share(found.adversarial, found.samples.groups),
        adversarial_at_1pct=float(np.mean(found.readings.fused > limit)),
        quality=_share(found.quality, found.samples.groups),
    )


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


def _leave_out(
    bundle: Bundle,
    clean: Judgement,
    hit: Sequence[tuple[Attacked, Judgement]],
    row: dict[str, int],
    names: Sequence[str],
    seed: int,
) -> tuple[LeftOut, ...]:
    """Fit the guard again without one family, then without one epsilon, and meet it."""
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
        guard = fit_guard(
            omission.applied(reference), omission.applied(fusion), widths, classes, names
        )
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
                        undetected_harm=_share(
                            harm, [attacked.samples.groups[i] for i in eligible], seed
                        ),
                    )
                )
    return tuple(results)
