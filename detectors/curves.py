"""ROC points for plots and for ``evaluation.json``: few, and none of them estimated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from detectors.evaluation import Curve, Knowledge
from detectors.statistics import Vector, roc

POINTS = 40


@dataclass(frozen=True, slots=True)
class Hits:
    """Scores of the images that one attack turned into a wrong diagnosis."""

    knowledge: Knowledge
    attack: str
    epsilon: float
    scores: Mapping[str, Vector]
    """By detector, and ``fused``."""


def curves(negatives: Mapping[str, Vector], hits: Iterable[Hits]) -> tuple[Curve, ...]:
    """Each attack's curves, then those of all attacks of one knowledge and epsilon together.
    Attacks without a success have none."""
    results = []
    pools: dict[tuple[Knowledge, float], dict[str, list[Vector]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for hit in hits:
        for name, positive in hit.scores.items():
            if len(positive):
                fpr, tpr = thinned(negatives[name], positive)
                results.append(Curve(hit.knowledge, hit.attack, hit.epsilon, name, fpr, tpr))
                pools[hit.knowledge, hit.epsilon][name].append(positive)
    for (knowledge, epsilon), scores in pools.items():
        for name, parts in scores.items():
            fpr, tpr = thinned(negatives[name], np.concatenate(parts))
            results.append(Curve(knowledge, None, epsilon, name, fpr, tpr))
    return tuple(results)


def thinned(
    negative: Vector, positive: Vector, points: int = POINTS
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """``(fpr, tpr)`` at no, one, two, ... and ever more widely spaced numbers of false alarms, up
    to all of them. Points inside a level stretch are left out."""
    n = len(negative)
    alarms = np.r_[0, np.unique(np.round(np.geomspace(1, n, points)))]
    fpr, tpr = roc(negative, positive)
    # counts are whole; half of one keeps rounding from missing the point at exactly that rate
    chosen = np.unique(np.searchsorted(fpr * n, alarms + 0.5) - 1)
    x, y = fpr[chosen], tpr[chosen]
    inner = np.r_[False, (y[1:-1] == y[:-2]) & (y[1:-1] == y[2:]), False]
    return tuple(x[~inner].tolist()), tuple(y[~inner].tolist())
