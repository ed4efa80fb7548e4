"""The statistics of the reports: how well scores separate, and how sure we are of it.

``negative`` are scores of benign images, ``positive`` of attacked ones, ``float[n]`` each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, rankdata

Vector = npt.NDArray[np.floating[Any]]
Index = npt.NDArray[np.intp]


def auc(negative: Vector, positive: Vector) -> float:
    """``P(positive > negative) + P(equal) / 2`` (Mann-Whitney); NaN when a side is empty."""
    n, m = len(negative), len(positive)
    if n == 0 or m == 0:
        return float("nan")
    ranks = rankdata(np.r_[negative, positive])
    return float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m))


def tpr_at_fpr(negative: Vector, positive: Vector, fpr: float) -> float:
    """Share of positives whose conformal p-value among the negatives,
    ``(1 + #{negative >= s}) / (n + 1)``, is at most ``fpr``.

    This is the threshold that a deployment calibrated on ``negative`` would use: a new benign
    image passes it with probability at most ``fpr``. NaN when ``1 / (n + 1) > fpr``, that is, when
    the negatives are too few for any such threshold, or when there is no positive.
    """
    n = len(negative)
    allowed = int(np.floor((n + 1) * fpr + 1e-9))
    if allowed < 1 or len(positive) == 0:
        return float("nan")
    threshold = np.sort(negative)[n - allowed]
    return float(np.mean(positive > threshold))


def roc(negative: Vector, positive: Vector) -> tuple[Vector, Vector]:
    """``(fpr, tpr)`` at every distinct threshold, from (0, 0) to (1, 1)."""
    thresholds = np.unique(np.r_[negative, positive])[::-1]
    low, high = np.sort(negative), np.sort(positive)
    false = len(low) - np.searchsorted(low, thresholds, side="left")
    true = len(high) - np.searchsorted(high, thresholds, side="left")
    return np.r_[0.0, false / len(low)], np.r_[0.0, true / len(high)]


def bootstrap_over_groups(
    statistic: Callable[[Index], float],
    groups: Sequence[Any] | npt.NDArray[Any],
    *,
    n: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of ``statistic`` when whole groups (patients) are drawn anew.

    Args:
        statistic: from row positions, with repetitions, to a number. NaN results are left out.
        groups: one entry a row.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    rows = np.arange(len(member))
    rng = np.random.default_rng(seed)
    even = np.full(len(names), 1 / len(names))
    values = [
        statistic(np.repeat(rows, rng.multinomial(len(names), even)[member])) for _ in range(n)
    ]
    known = np.array([value for value in values if not np.isnan(value)])
    if len(known) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


DEALS, DEALS_AT_ONCE = 20_000, 1_000


def auc_by_chance(
    scores: Vector,
    groups: npt.NDArray[Any],
    second: npt.NDArray[np.bool_],
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Interval of the AUC of ``second`` against the rest when which groups are the second ones is
    dealt anew (permutation distribution, Fisher 1935; for the AUC, Mann and Whitney 1947).

    Args:
        scores: ``float[N]``.
        groups: ``N`` groups; their rows are dealt together.
        second: ``bool[N]``, the same for all rows of a group, else ``ValueError``.
    """
    names, first_row, member = np.unique(groups, return_index=True, return_inverse=True)
    chosen = second[first_row]
    if not np.array_equal(chosen[member], second):
        raise ValueError("a group is in both halves")
    ranks = np.bincount(member, rankdata(scores), len(names))
    sizes = np.bincount(member, minlength=len(names)).astype(float)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(DEALS // DEALS_AT_ONCE):
        dealt = rng.permuted(np.broadcast_to(chosen, (DEALS_AT_ONCE, len(names))), axis=1)
        m = dealt @ sizes
        values.append((dealt @ ranks - m * (m + 1) / 2) / (m * (len(scores) - m)))
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def proportion_interval(
    successes: int, trials: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Clopper-Pearson interval: covers the true share with at least ``confidence``."""
    tail = (1 - confidence) / 2
    low = beta.ppf(tail, successes, trials - successes + 1) if successes > 0 else 0.0
    high = beta.ppf(1 - tail, successes + 1, trials - successes) if successes < trials else 1.0
    return float(low), float(high)
