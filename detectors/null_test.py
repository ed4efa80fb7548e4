"""The null test: where nobody attacks, every detector must score AUC 0.50.

An evaluation that leaks (a bank that holds the points it scores, a scaler fitted on the test
split, copies on both sides) passes for a good detector until it is asked to tell benign images
from benign images. No report is written unless this test passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detectors.bank import folds
from detectors.detector import Detector
from detectors.features import Features
from detectors.statistics import Vector, auc, bootstrap_over_groups


@dataclass(frozen=True, slots=True)
class NullResult:
    """AUC of one detector between two sets of benign images, and its interval."""

    detector: str
    auc: float
    low: float
    high: float
    passed: bool
    """Whether 0.5 lies in ``[low, high]``."""


def null_test(
    scores: Mapping[str, Vector],
    groups: Sequence[Any] | npt.NDArray[Any],
    *,
    second: npt.NDArray[np.bool_] | None = None,
    seed: int = 0,
    confidence: float = 0.99,
) -> tuple[NullResult, ...]:
    """Compare two halves of benign images by their scores.

    Args:
        scores: detector name to ``float[N]``.
        groups: ``N`` patients.
        second: ``bool[N]``, the half that plays the attacked one; a random half of the groups if
            None. Pass it when the halves went different ways through the evaluation.
        confidence: that of all intervals together (Bonferroni over the detectors).
    """
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    if second is None:
        second = folds(torch.from_numpy(group), 2, seed).numpy() == 1
    each = 1 - (1 - confidence) / len(scores)
    results = []
    for name, score in scores.items():

        def halves(rows: npt.NDArray[np.intp], score: Vector = score) -> float:
            return auc(score[rows][~second[rows]], score[rows][second[rows]])

        low, high = bootstrap_over_groups(halves, group, n=2000, seed=seed, confidence=each)
        whole = halves(np.arange(len(group)))
        results.append(NullResult(name, whole, low, high, low <= 0.5 <= high))
    return tuple(results)


def refitted_null_test(
    detectors: Sequence[Detector],
    benign: Features,
    labels: Tensor,
    groups: Tensor,
    *,
    seed: int = 0,
    confidence: float = 0.99,
) -> tuple[NullResult, ...]:
    """Fit every detector anew with benign images in the role of the attacked ones, and test it.

    The groups fall into four parts: benign and "attacked" to fit on, benign and "attacked" to
    score. The detectors given are fitted in place; pass fresh ones.
    """
    part = folds(groups, 4, seed)
    rows = [torch.nonzero(part == p).flatten().to(labels.device) for p in range(4)]
    scored = torch.cat(rows[2:])
    scores = {}
    for detector in detectors:
        detector.fit(
            benign.rows(rows[0]),
            labels[rows[0]],
            benign.rows(rows[1]),
            torch.cat([groups[rows[0].cpu()], groups[rows[1].cpu()]]),
        )
        with torch.no_grad():
            scores[detector.name] = detector(benign.rows(scored)).cpu().numpy()
    second = np.r_[np.zeros(len(rows[2]), dtype=bool), np.ones(len(rows[3]), dtype=bool)]
    return null_test(
        scores,
        groups[scored.cpu()].numpy(),
        second=second,
        seed=seed,
        confidence=confidence,
    )
