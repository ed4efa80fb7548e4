"""The history test: is it the attack that a detector sees, or a file's past?

Images that were once JPEG carry its grid: in every 8 x 8 block their spectrum lies near multiples
of a quantiser's steps. Any change of a grey level here and there smears that, an attack as much as
honest noise. A detector that sees no more than a missing grid is perfect on a data set of JPEG
files, and alarms at every PNG.

So attacked images are compared twice: with the clean originals, and with *matched* benign images of
the same history: the same originals changed without malice by as much (``sign_noise``), or both
sides encoded alike. What only the first comparison shows, the history explains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.statistics import Vector, auc, bootstrap_over_groups


@dataclass(frozen=True, slots=True)
class HistoryResult:
    """AUC of one detector against both kinds of benign image."""

    detector: str
    auc: float
    """Attacked against clean images."""
    matched: float
    """Attacked against benign images of the same history, with its interval."""
    low: float
    high: float
    passed: bool
    """False where the whole interval lies below half of what separates attacked from clean
    images: the history then explains more than the attack."""


def history_test(
    clean: Mapping[str, Vector],
    matched: Mapping[str, Vector],
    attacked: Mapping[str, Vector],
    groups: tuple[Sequence[Any], Sequence[Any]],
    *,
    seed: int = 0,
    confidence: float = 0.99,
) -> tuple[HistoryResult, ...]:
    """Compare attacked images with clean ones and with benign ones of the same history.

    Args:
        clean: detector name to ``float[N]``; ``matched`` and ``attacked`` likewise, of other
            lengths.
        groups: patients of the matched and of the attacked images.
        confidence: of all intervals together (Bonferroni over the detectors).
    """
    each = 1 - (1 - confidence) / len(attacked)
    results = []
    for name, positive in attacked.items():
        plain = auc(clean[name], positive)
        same = _compared(matched[name], positive, groups, seed, each)
        passed = same[2] - 0.5 >= (plain - 0.5) / 2
        results.append(HistoryResult(name, plain, *same, passed))
    return tuple(results)


def _compared(
    negative: Vector,
    positive: Vector,
    groups: tuple[Sequence[Any], Sequence[Any]],
    seed: int,
    confidence: float,
) -> tuple[float, float, float]:
    scores = np.r_[negative, positive]
    is_attacked = np.r_[np.zeros(len(negative), bool), np.ones(len(positive), bool)]

    def area(rows: npt.NDArray[np.intp]) -> float:
        return auc(scores[rows][~is_attacked[rows]], scores[rows][is_attacked[rows]])

    both = np.r_[np.asarray(groups[0]), np.asarray(groups[1])]
    low, high = bootstrap_over_groups(area, both, n=500, seed=seed, confidence=confidence)
    return area(np.arange(len(scores))), low, high
