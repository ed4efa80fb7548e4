"""Judge a bundle on test patients by the project's rules of evidence.

Nothing here is fitted on what it judges. Thresholds are stated as false-positive rates. Without a
passing null test there is no evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch

from detectors.bundle import Bundle
from detectors.curves import Hits, curves
from detectors.evaluation import (
    FPRS,
    AttackResult,
    CleanResult,
    Discrimination,
    Estimate,
    Evaluation,
    Judged,
    ShiftResult,
    Targets,
)
from detectors.guard import DETECTORS
from detectors.judgement import (
    DRAWS,
    HEADLINE_FPR,
    Attacked,
    Judgement,
    Vector,
    judge,
    share,
    threshold,
)
from detectors.leave_out import leave_out
from detectors.null_test import null_test, refitted_null_test
from detectors.paper_protocol import null, paper_protocol
from detectors.samples import Samples, group_numbers
from detectors.statistics import auc
from detectors.subgroups import calibration_checks, subgroups
from detectors.worst_cases import WorstCases, worst_cases
from models.onnx_engine import OnnxEngine


class EvaluationProblem(Exception):
    """An evaluation that must not be written. The message says why."""


@dataclass(frozen=True, slots=True)
class Findings:
    """The numbers, and images to look at beside them."""

    evaluation: Evaluation
    worst: WorstCases


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
) -> Findings:
    """Evaluate ``bundle``.

    Args:
        clean: the test images. Attacks and shifts were made from some or all of them (same keys).
        others: images that are not for this model; their labels do not count.
        progress: called with the number of images just read.

    Raises ``EvaluationProblem`` when the null test fails.
    """
    engine = OnnxEngine(bundle.graph)
    model, classes = bundle.manifest.model, bundle.manifest.model.classes
    names = tuple(entry.name for entry in bundle.manifest.detectors)
    widths = bundle.manifest.tap_widths
    started = perf_counter()
    judged = judge(bundle, engine, clean, progress)
    seconds = perf_counter() - started
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
    hit = [(a, judge(bundle, engine, a.samples, progress)) for a in attacks]
    shifted = [judge(bundle, engine, s, progress) for s in shifts]
    evaluation = Evaluation(
        bundle=bundle.digest,
        model=f"{model.name} {model.version}",
        classes=classes,
        detectors=names,
        targets=Targets(bundle.manifest.alphas.flag, bundle.manifest.alphas.quality),
        provenance=provenance,
        clean=_clean(bundle, judged),
        null=nulls,
        null_refitted=refitted,
        null_paper=null(penultimate[judged.right], clean.labels[judged.right], seed),
        subgroups=subgroups(judged, classes),
        calibration=calibration_checks(judged, classes),
        attacks=tuple(
            _attack(judged, attacked, found, row, names, penultimate, widths, seed)
            for attacked, found in hit
        ),
        curves=curves(columns, (_hits(judged, a, found, row, names) for a, found in hit)),
        left_out=leave_out(bundle, judged, hit, row, names, seed),
        shifts=tuple(_shift(judged, found) for found in shifted),
        others=tuple(_shift(judged, judge(bundle, engine, s, progress)) for s in others),
        cost={
            "graph_bytes": float(len(bundle.graph)),
            "bundle_bytes": float(sum(p.stat().st_size for p in bundle.directory.iterdir())),
            "milliseconds_per_image": 1000 * seconds / len(clean),
        },
    )
    return Findings(evaluation, worst_cases(judged, hit, shifted, row, classes))


def _columns(judged: Judgement, names: Sequence[str]) -> dict[str, Vector]:
    columns = {name: judged.readings.scores[:, d].astype(float) for d, name in enumerate(names)}
    return {**columns, "fused": judged.readings.fused.astype(float)}


def _hits(
    clean: Judgement,
    attacked: Attacked,
    found: Judgement,
    row: dict[str, int],
    names: Sequence[str],
) -> Hits:
    source = np.array([row[key] for key in attacked.samples.keys], dtype=np.intp)
    harmed = clean.right[source] & ~found.right
    return Hits(
        attacked.knowledge,
        attacked.samples.origin,
        attacked.samples.level,
        {name: scores[harmed] for name, scores in _columns(found, names).items()},
    )


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
        knowledge=attacked.knowledge,
        images=len(eligible),
        linf=attacked.linf,
        success=share(wrong, groups, seed),
        success_float=attacked.success_float,
        undetected_harm=share(wrong & accepted, groups, seed),
        undetected_harm_served=share(wrong & found.accepted[eligible], groups, seed),
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
        by_class[name] = share(judged.adversarial[rows], [groups[i] for i in rows])
    return CleanResult(
        images=len(judged.samples),
        patients=len(set(groups)),
        accuracy=share(judged.right, groups),
        adversarial=share(judged.adversarial, groups),
        quality=share(judged.quality, groups),
        adversarial_by_class=by_class,
        errors_accepted=share(~judged.right & judged.accepted, groups),
    )


def _shift(clean: Judgement, found: Judgement) -> ShiftResult:
    limit = threshold(clean.readings.fused.astype(float), HEADLINE_FPR)
    return ShiftResult(
        shift=found.samples.origin,
        severity=found.samples.level,
        images=len(found.samples),
        accuracy=float(found.right.mean()),
        adversarial=share(found.adversarial, found.samples.groups),
        adversarial_at_1pct=float(np.mean(found.readings.fused > limit)),
        quality=share(found.quality, found.samples.groups),
    )
