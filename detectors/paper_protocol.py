"""The released evaluation of Ma et al. 2021, with its leaks, for the report's comparison column.

Everything here is wrong on purpose, as the released code is: densities fitted on the points they
then score, neighbour slices that drop a different neighbour for clean and for attacked images,
rare classes oversampled before the split, scalers and quantisers fitted on train and test
together. ``null`` shows what that is worth on data without any attack. Our own protocol lives in
``splits``, the detectors and ``null_test``.

Source: the authors' repository Understanding-Adversarial-Attacks-MIA,
``extract_characteristics.py``, ``detect_adv_examples.py``, ``detect_hiddenfeat.py``,
``detect_safetynet.py`` and the ``*_transferability.py`` beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import MinMaxScaler
from sklearn.svm import SVC

from detectors.qfeat import PAPER_GAMMA
from detectors.statistics import auc
from detectors.tle import tight_lid

Matrix = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]

Score = Callable[[Any, Matrix], Matrix]
"""From a fitted model and features to one number an image."""

BANDWIDTH, NEIGHBOURS, MINIBATCH, TREES, SPLITS = 1.0, 20, 100, 30, 3
PAPER_FEWEST = NEIGHBOURS + 2
"""Images below which it has not neighbours enough."""


@dataclass(frozen=True, slots=True)
class PaperScores:
    """Mean AUC over the random splits, one a detector."""

    kd: float
    lid: float
    dfeat: float
    qfeat: float


def paper_protocol(
    clean: Matrix, adversarial: Matrix, labels: Labels, predicted: Labels, seed: int = 0
) -> PaperScores:
    """Run the released protocol.

    Args:
        clean: ``float[N, d]`` penultimate features of images that are diagnosed right.
        adversarial: ``float[N, d]``, the same images attacked, row by row.
        labels: ``int[N]``, true classes (so also those predicted for ``clean``).
        predicted: ``int[N]``, classes predicted for ``adversarial``.
    """
    rng = np.random.default_rng(seed)
    # The four scripts oversample: each class is drawn with replacement up to the largest one,
    # clean and attacked images separately.
    fair, struck = _oversampled(labels, rng), _oversampled(labels, rng)
    x = np.concatenate([clean[fair], adversarial[struck]])
    y = np.r_[np.zeros(len(fair)), np.ones(len(struck))]
    return PaperScores(
        kd=_logistic_auc(*_densities(clean, adversarial, labels, predicted), seed),
        lid=_logistic_auc(*_dimensions(clean, adversarial, rng), seed),
        dfeat=_mean_auc(
            x,
            y,
            lambda split: RandomForestClassifier(TREES, random_state=split),
            _probability,
            seed,
        ),
        qfeat=_mean_auc(
            (x > x.mean(axis=0)).astype(np.float64),
            y,
            lambda _: SVC(C=1.0, gamma=PAPER_GAMMA),
            _decision,
            seed,
        ),
    )


def null(clean: Matrix, labels: Labels, seed: int = 0) -> PaperScores:
    """The protocol's AUCs when "attacked" images are benign ones: the rows of ``clean`` are split
    at random into two halves, one playing each part. An honest protocol gives 0.50."""
    order = np.random.default_rng(seed).permutation(len(clean))
    half = len(clean) // 2
    first, second = order[:half], order[half : 2 * half]
    # Within a class each row keeps a partner of its own class, as an image and its attacked
    # version would.
    first = first[np.argsort(labels[first], kind="stable")]
    second = second[np.argsort(labels[second], kind="stable")]
    return paper_protocol(clean[first], clean[second], labels[first], labels[second], seed)


def paper_transfer(
    clean: Matrix,
    first: Matrix,
    second: Matrix,
    labels: Labels,
    predicted: tuple[Labels, Labels],
    seed: int = 0,
) -> PaperScores:
    """The released transfer between attacks: fitted on every clean image and the ``first`` attack,
    scored on the *same* clean images and the ``second``. QFeat's machine there sees raw features.

    Args:
        clean: ``float[N, d]`` penultimate features of images that are diagnosed right.
        first: ``float[N, d]``, the same images under the attack to fit on; ``second`` likewise.
        labels: ``int64[N]``, true classes.
        predicted: ``int64[N]`` each, classes predicted for ``first`` and ``second``.
    """
    y = np.r_[np.zeros(len(clean)), np.ones(len(first))]

    def scored(model: Any, known: Matrix, unknown: Matrix, ours: Matrix, score: Score) -> float:
        model.fit(np.concatenate([known, unknown]), y[: len(known) + len(unknown)])
        return auc(score(model, known), score(model, ours))

    def by_logistic(characteristic: Callable[[Matrix, Labels], tuple[Matrix, Matrix]]) -> float:
        known, unknown = characteristic(first, predicted[0])
        _, other = characteristic(second, predicted[1])
        scale = MinMaxScaler().fit(np.concatenate([known, unknown, other]))
        known, unknown, other = (scale.transform(x) for x in (known, unknown, other))
        return scored(_logistic(), known, unknown, other, _decision)

    return PaperScores(
        kd=by_logistic(lambda x, classes: _densities(clean, x, labels, classes)),
        lid=by_logistic(lambda x, _: _dimensions(clean, x, np.random.default_rng(seed))),
        dfeat=scored(
            RandomForestClassifier(TREES, random_state=seed), clean, first, second, _probability
        ),
        qfeat=scored(SVC(C=1.0, gamma=PAPER_GAMMA), clean, first, second, _decision),
    )


def null_transfer(clean: Matrix, labels: Labels, seed: int = 0) -> PaperScores:
    """``paper_transfer``'s AUCs on benign images alone: three random thirds of ``clean`` play the
    clean images and the two attacks. An honest protocol gives 0.50."""
    order = np.random.default_rng(seed).permutation(len(clean))
    third = len(clean) // 3
    parts = [order[i * third : (i + 1) * third] for i in range(3)]
    parts = [part[np.argsort(labels[part], kind="stable")] for part in parts]
    known, first, second = (clean[part] for part in parts)
    played = (labels[parts[1]], labels[parts[2]])
    return paper_transfer(known, first, second, labels[parts[0]], played, seed)


def _oversampled(labels: Labels, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    rows = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    largest = max(len(members) for members in rows)
    return np.concatenate(
        [members if len(members) == largest else rng.choice(members, largest) for members in rows]
    )


def _densities(
    clean: Matrix, adversarial: Matrix, labels: Labels, predicted: Labels
) -> tuple[Matrix, Matrix]:
    kernels = {
        c: KernelDensity(bandwidth=BANDWIDTH).fit(clean[labels == c]) for c in np.unique(labels)
    }

    def score(x: Matrix, classes: Labels) -> Matrix:
        result = np.empty(len(x))
        for c, kernel in kernels.items():
            if (classes == c).any():
                result[classes == c] = kernel.score_samples(x[classes == c])
        return result[:, None]

    # A class that no clean image has cannot be scored; the released tasks have none such.
    known = np.where(np.isin(predicted, list(kernels)), predicted, labels)
    return score(clean, labels), score(adversarial, known)


def _dimensions(
    clean: Matrix, adversarial: Matrix, rng: np.random.Generator
) -> tuple[Matrix, Matrix]:
    order = rng.permutation(len(clean))
    results: tuple[list[Matrix], list[Matrix]] = ([], [])
    for start in range(0, len(order), MINIBATCH):
        rows = order[start : start + MINIBATCH]
        if len(rows) <= NEIGHBOURS + 1:
            continue
        bank = torch.from_numpy(clean[rows].astype(np.float64))
        between = torch.cdist(bank, bank, compute_mode="donot_use_mm_for_euclid_dist")
        for source, result in zip((clean, adversarial), results, strict=True):
            query = torch.from_numpy(source[rows].astype(np.float64))
            distance = torch.cdist(query, bank, compute_mode="donot_use_mm_for_euclid_dist")
            # The leak: [1:k+1] drops a clean query itself, but a real neighbour of an attacked one.
            near = distance.sort(dim=1)
            index = near.indices[:, 1 : NEIGHBOURS + 1]
            pairs = between[index[:, :, None], index[:, None, :]]
            result.append(tight_lid(near.values[:, 1 : NEIGHBOURS + 1], pairs)[:, None].numpy())
    return np.concatenate(results[0]), np.concatenate(results[1])


def _logistic_auc(clean: Matrix, adversarial: Matrix, seed: int) -> float:
    x = MinMaxScaler().fit_transform(np.concatenate([clean, adversarial]))
    y = np.r_[np.zeros(len(clean)), np.ones(len(adversarial))]
    return _mean_auc(
        x,
        y,
        lambda _: _logistic(),
        _decision,
        seed,
    )


def _logistic() -> Any:
    return LogisticRegressionCV(
        cv=5, max_iter=1000, l1_ratios=(0,), scoring="accuracy", use_legacy_attributes=False
    )


def _decision(model: Any, x: Matrix) -> Matrix:
    return np.asarray(model.decision_function(x))


def _probability(model: Any, x: Matrix) -> Matrix:
    return np.asarray(model.predict_proba(x)[:, 1])


def _mean_auc(
    x: Matrix,
    y: Matrix,
    build: Callable[[int], Any],
    score: Score,
    seed: int,
) -> float:
    values = []
    for split in range(SPLITS):
        train, test, y_train, y_test = train_test_split(
            x, y, test_size=0.2, random_state=seed + split
        )
        scores = score(build(split).fit(train, y_train), test)
        values.append(auc(scores[y_test == 0], scores[y_test == 1]))
    return float(np.mean(values))
