"""Judge a bundle on test patients by the project's rules of evidence.

Nothing here is fitted on what it judges. Thresholds are stated as false-positive rates. Without a
passing null test there is no evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectors.bundle import Bundle
from detectors.curves import Hits, curves
from detectors.evaluation import (
    FPRS,
    AttackResult,
    Discrimination,
    Estimate,
    Evaluation,
    Judged,
    Targets,
)
from detectors.judgement import (
    DRAWS,
    Attacked,
    Fates,
    Judgement,
    Vector,
    fates,
    share,
    threshold,
)
from detectors.leave_out import leave_out
from detectors.paper_protocol import PAPER_FEWEST, null, paper_protocol
from detectors.samples import Samples
from detectors.statistics import auc
from detectors.subgroups import calibration_checks, subgroups
from detectors.trial import Trial, detector_names, score_columns
from detectors.worst_cases import WorstCases, worst_cases


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
    tried = Trial.begin(bundle, clean, seed, progress)
    tried.require_null()
    model, classes = bundle.manifest.model, bundle.manifest.model.classes
    names, widths = detector_names(bundle), bundle.manifest.tap_widths
    judged = tried.clean
    penultimate = judged.measured.taps[:, -widths[-1] :].astype(np.float64)
    row = {key: i for i, key in enumerate(clean.keys)}
    hit = [(a, tried.judge(a.samples, progress)) for a in attacks]
    shifted = [tried.judge(s, progress) for s in shifts]
    evaluation = Evaluation(
        bundle=bundle.digest,
        model=f"{model.name} {model.version}",
        classes=classes,
        detectors=names,
        targets=Targets(bundle.manifest.alphas.flag, bundle.manifest.alphas.quality),
        provenance=provenance,
        clean=tried.clean_result(),
        null=tried.null,
        null_refitted=tried.null_refitted,
        null_paper=null(penultimate[judged.right], clean.labels[judged.right], seed),
        subgroups=subgroups(judged, classes),
        calibration=calibration_checks(judged, classes),
        attacks=tuple(
            _attack(judged, attacked, found, row, names, penultimate, widths, seed)
            for attacked, found in hit
        ),
        curves=curves(
            score_columns(judged, names),
            (_hits(a, found, fates(judged, found), names) for a, found in hit),
        ),
        left_out=leave_out(bundle, judged, hit, row, names, seed),
        shifts=tuple(tried.shift_result(found) for found in shifted),
        others=tuple(tried.shift_result(tried.judge(s, progress)) for s in others),
        cost={
            "graph_bytes": float(len(bundle.graph)),
            "bundle_bytes": float(sum(p.stat().st_size for p in bundle.directory.iterdir())),
            "milliseconds_per_image": tried.milliseconds,
        },
    )
    return Findings(evaluation, worst_cases(judged, hit, shifted, row, classes))


def _hits(attacked: Attacked, found: Judgement, fate: Fates, names: Sequence[str]) -> Hits:
    return Hits(
        attacked.knowledge,
        attacked.samples.origin,
        attacked.samples.level,
        {name: scores[fate.wrong] for name, scores in score_columns(found, names).items()},
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
    fate = fates(clean, found)
    eligible = np.flatnonzero(fate.eligible)
    groups = [attacked.samples.groups[i] for i in eligible]
    wrong = fate.wrong[eligible]
    negatives, positives = score_columns(clean, names), score_columns(found, names)
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
        undetected_harm=share(fate.harmed[eligible], groups, seed),
        undetected_harm_either=share(fate.harmed_either[eligible], groups, seed),
        undetected_harm_served=share(fate.harmed_served[eligible], groups, seed),
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
        if moved and len(eligible) >= PAPER_FEWEST
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
