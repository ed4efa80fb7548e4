"""The paper's four detectors on every attack, by the released protocol and by ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detectors.detector import Detector
from detectors.dfeat import DeepFeatures
from detectors.evaluation import Estimate
from detectors.kd import KernelDensity
from detectors.lid import Lid
from detectors.null_test import NullResult, refitted_null_test
from detectors.paper_protocol import (
    PaperScores,
    null,
    null_transfer,
    paper_protocol,
    paper_transfer,
)
from detectors.qfeat import QuantisedFeatures
from detectors.samples import Classes, Measured, group_numbers, joined
from detectors.statistics import auc, bootstrap_over_groups
from detectors.trial import EvaluationProblem

PAPER_DETECTORS: tuple[type[Detector], ...] = (KernelDensity, Lid, DeepFeatures, QuantisedFeatures)
NAMES = tuple(detector.name for detector in PAPER_DETECTORS)
FITTED_ON = ("fgsm", "pgd")
"""What the paper's transfer between attacks is fitted on."""
DRAWS = 300  # of the bootstrap

Vector = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Attempted:
    """N images that are diagnosed right when clean, and the same images attacked, successfully or
    not, as the released code counts them."""

    clean: Measured
    labels: Classes
    groups: tuple[str, ...]
    attacked: Mapping[str, Measured]
    """By attack; rows as in ``clean``."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Detection:
    """One attack under both protocols. AUCs of clean images against attacked ones."""

    fitted_on: str
    attack: str
    images: int
    """Attacked test images."""
    successful: int
    """Of them, diagnosed wrong."""
    paper: PaperScores | None
    """None for a benign change in the attack's place, which the released code does not know."""
    honest: Mapping[str, Estimate]
    """By detector: fitted on other patients, all attacked test images."""
    honest_successful: Mapping[str, float]
    """The same against successful attacks alone; NaN where there is none."""


@dataclass(frozen=True, slots=True)
class DetectionNull:
    """What both protocols find where nobody attacks."""

    images: int
    right: int
    """Of them, diagnosed right: what the released protocol was given."""
    paper: PaperScores
    paper_transfer: PaperScores
    honest: tuple[NullResult, ...]

    def require(self, model: str) -> None:
        """Raises ``EvaluationProblem`` unless every detector of ours passes."""
        for result in self.honest:
            if not result.passed:
                raise EvaluationProblem(
                    f"{model}: the honest null test fails for {result.detector}: benign against "
                    f"benign has AUC {result.auc:.3f}, and chance alone gives {result.low:.3f} to "
                    f"{result.high:.3f}, so no page is written"
                )


def detections(
    reference: Attempted, test: Attempted, widths: Sequence[int], seed: int = 0
) -> tuple[Detection, ...]:
    """Every attack of both, detectors fitted on the same one; then every attack by detectors that
    were fitted on one of ``FITTED_ON``. What ``test`` alone has (benign changes) is scored by the
    latter only.

    Raises ``EvaluationProblem`` when the images are too few to fit on.
    """
    same = [name for name in test.attacked if name in reference.attacked]
    pairs = [(name, name) for name in same]
    pairs += [(a, b) for a in FITTED_ON if a in same for b in test.attacked if a != b]
    fitted = {a: _fitted(reference, a, widths) for a in dict.fromkeys(a for a, _ in pairs)}
    both = joined([reference.clean, test.clean])
    labels = np.concatenate([reference.labels, test.labels])
    clean = _penultimate(both, widths)

    def pooled(attack: str) -> tuple[Vector, Classes]:
        measured = joined([reference.attacked[attack], test.attacked[attack]])
        return _penultimate(measured, widths), measured.predicted

    results = []
    for a, b in pairs:
        paper = None
        if a == b:
            paper = paper_protocol(clean, pooled(a)[0], labels, pooled(a)[1], seed)
        elif b in same:
            (first, said), (second, said_too) = pooled(a), pooled(b)
            paper = paper_transfer(clean, first, second, labels, (said, said_too), seed)
        results.append(_detection(fitted[a], test, a, b, widths, paper, seed))
    return tuple(results)


def detection_null(
    benign: Measured,
    labels: Classes,
    groups: Sequence[str],
    widths: Sequence[int],
    *,
    seed: int = 0,
    confidence: float = 0.99,
) -> DetectionNull:
    """Both protocols on N benign images that the model was not trained on. The released one sees
    those that are diagnosed right, as it does with attacks.

    Args:
        confidence: that of all our detectors' intervals together.
    """
    right = benign.predicted == labels
    features = _penultimate(benign, widths)[right]
    try:
        honest = refitted_null_test(
            [detector() for detector in PAPER_DETECTORS],
            benign.features(widths),
            torch.from_numpy(labels),
            group_numbers(groups),
            seed=seed,
            confidence=confidence,
        )
        paper = null(features, labels[right], seed)
        transfer = null_transfer(features, labels[right], seed)
    except ValueError as error:
        raise EvaluationProblem(
            f"{len(labels)} images, {right.sum()} of them diagnosed right, are too few for a null "
            f"test, which fits every detector on a quarter of them ({error}); give more"
        ) from None
    return DetectionNull(len(labels), int(right.sum()), paper, transfer, honest)


def _penultimate(measured: Measured, widths: Sequence[int]) -> Vector:
    return measured.taps[:, -widths[-1] :].astype(np.float64)


def _fitted(reference: Attempted, attack: str, widths: Sequence[int]) -> list[Detector]:
    detectors = [detector() for detector in PAPER_DETECTORS]
    try:
        for detector in detectors:
            detector.fit(
                reference.clean.features(widths),
                torch.from_numpy(reference.labels),
                reference.attacked[attack].features(widths),
                group_numbers((*reference.groups, *reference.groups)),
            )
    except ValueError as error:
        raise EvaluationProblem(
            f"{len(reference)} images are too few to fit on ({error}); give more with --fit-images"
        ) from None
    return detectors


def _detection(
    detectors: Sequence[Detector],
    test: Attempted,
    fitted_on: str,
    attack: str,
    widths: Sequence[int],
    paper: PaperScores | None,
    seed: int,
) -> Detection:
    struck = test.attacked[attack]
    wrong = struck.predicted != test.labels
    honest, successful = {}, {}
    for detector in detectors:
        with torch.no_grad():
            quiet = detector(test.clean.features(widths)).cpu().numpy()
            loud = detector(struck.features(widths)).cpu().numpy()
        honest[detector.name] = _auc(quiet, loud, test.groups, seed)
        successful[detector.name] = auc(quiet, loud[wrong])
    return Detection(fitted_on, attack, len(test), int(wrong.sum()), paper, honest, successful)


def _auc(clean: Vector, attacked: Vector, groups: Sequence[str], seed: int) -> Estimate:
    def statistic(rows: npt.NDArray[np.intp]) -> float:
        return auc(clean[rows], attacked[rows])

    low, high = bootstrap_over_groups(statistic, groups, n=DRAWS, seed=seed)
    return Estimate(auc(clean, attacked), low, high)
