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
from detectors.statistics import Vector, auc, auc_by_chance


@dataclass(frozen=True, slots=True)
class NullResult:
    """AUC of one detector between two sets of benign images, and where chance alone puts it."""

    detector: str
    auc: float
    low: float
    """Least AUC that dealing the same patients anew into two halves explains."""
    high: float
    """The greatest."""
    passed: bool
    """Whether ``auc`` lies in ``[low, high]``."""


def null_test(
    scores: Mapping[str, Vector],
    groups: Sequence[Any] | npt.NDArray[Any],
    *,
    second: npt.NDArray[np.bool_] | None = None,
    seed: int = 0,
    confidence: float = 0.99,
) -> tuple[NullResult, ...]:
    """Compare two halves of benign images by their scores.

    A permutation test: it refuses what is sound with probability ``1 - confidence`` whatever the
    number of patients. (A bootstrap interval around the AUC, which must hold 0.5, is too narrow
    far from 0.5.)

    Args:
        scores: detector name to ``float[N]``.
        groups: ``N`` patients.
        second: ``bool[N]``, the half that plays the attacked one; a random half of the groups if
            None. Pass it when the halves went different ways through the evaluation.
        confidence: that of all intervals together (Bonferroni over the detectors).

    Raises ``ValueError`` when a group is in both halves.
    """
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    if second is None:
        second = folds(torch.from_numpy(group), 2, seed).numpy() == 1
    each = 1 - (1 - confidence) / len(scores)
    results = []
    for name, score in scores.items():
        low, high = auc_by_chance(score, group, second, seed=seed, confidence=each)
        whole = auc(score[~second], score[second])
        results.append(NullResult(name, whole, low, high, low <= whole <= high))
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
