"""Where nobody attacks, our detectors must find nothing; the released protocol finds a lot."""

import numpy as np
import pytest
import torch
from feature_cases import gaussian

from detectors.agreement import Agreement
from detectors.dfeat import DeepFeatures
from detectors.kd import KernelDensity
from detectors.least_significant import LeastSignificant
from detectors.lid import Lid
from detectors.mahalanobis import Mahalanobis
from detectors.margin import Margin
from detectors.neighbour_labels import NeighbourLabels
from detectors.null_test import null_test, refitted_null_test
from detectors.paper_protocol import null
from detectors.qfeat import QuantisedFeatures
from detectors.quality import Quality
from detectors.recovery import LayerRecovery
from detectors.relative import RelativeMahalanobis
from detectors.tle import TightLid

RNG = np.random.default_rng(0)


def test_every_detector_refitted_on_benign_images_finds_nothing() -> None:
    benign, labels = gaussian(1600, seed=11)
    detectors = [
        KernelDensity(),
        Lid(),
        TightLid(),
        Mahalanobis(),
        Quality(),
        DeepFeatures(),
        QuantisedFeatures(),
        Agreement(),
        NeighbourLabels(),
        LayerRecovery(),
        LeastSignificant(),
        RelativeMahalanobis(),
        Margin(),
    ]
    results = refitted_null_test(detectors, benign, labels, torch.arange(1600))
    assert [result.detector for result in results] == [d.name for d in detectors]
    for result in results:
        assert result.passed, result
        assert result.high - result.low < 0.25


def test_a_bank_that_holds_half_of_what_it_scores_is_caught() -> None:
    """What the test is for: density fitted on the points it then scores."""
    benign, labels = gaussian(400, seed=12)
    first = torch.arange(400) < 200
    detector = KernelDensity(bandwidth=1.0)
    detector.fit(benign.rows(first), labels[first], benign)
    scores = {"kd": detector(benign).numpy()}
    (result,) = null_test(scores, np.arange(400), second=~first.numpy())
    assert not result.passed


def test_groups_count_once() -> None:
    """Twenty patients of fifty nearly equal images must not look like a thousand patients."""
    patient = np.repeat(RNG.normal(0, 1, 20), 50)
    groups = np.repeat(np.arange(20), 50)
    scores = {"a": patient + RNG.normal(0, 0.01, 1000), "b": RNG.normal(0, 1, 1000)}
    first, second = null_test(scores, groups)
    assert first.passed
    assert first.high - first.low > 4 * (second.high - second.low)


def test_released_protocol_finds_attacks_where_there_are_none() -> None:
    """The leaks of the released evaluation on plain Gaussian noise, where an honest AUC is 0.50
    (the class ratio is that of the paper's fundoscopy task)."""
    clean = RNG.normal(0, 1, (1600, 128)).astype(np.float32)
    labels = (RNG.random(1600) < 0.18).astype(int)
    scores = null(clean, labels)
    assert scores.kd > 0.99
    assert scores.lid == pytest.approx(0.645, abs=0.06)
    assert scores.dfeat > 0.8
    assert scores.qfeat > 0.8
