"""Calibration keeps its promise about false alarms, and refuses what it cannot promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from detectors.bundle import Alphas, levels_for
from detectors.calibrate import (
    Calibration,
    PValues,
    assured_level,
    binomial_cdf,
    conformal_p,
    expected_level,
    images_needed,
    images_needed_on_average,
    rank,
)
from models.engine import Readings


@pytest.mark.parametrize(
    ("n", "alpha", "level"),
    # the table of Beta quantiles in Bates et al.'s sense, computed independently with scipy below
    [(500, 0.05, 0.034), (1000, 0.01, 0.0050), (2000, 0.01, 0.0065), (10_000, 0.01, 0.0084)],
)
def test_nominal_levels_for_an_assured_rate(n: int, alpha: float, level: float) -> None:
    found = assured_level(n, alpha)
    assert found == pytest.approx(level, abs=1.5e-3 if alpha == 0.05 else 1e-4)
    flagged = round(found * (n + 1))
    assert beta.ppf(0.95, flagged, n + 1 - flagged) <= alpha
    assert beta.ppf(0.95, flagged + 1, n - flagged) > alpha


def test_too_few_images_assure_nothing() -> None:
    assert assured_level(298, 0.01) is None
    assert assured_level(299, 0.01) == pytest.approx(1 / 300)
    assert images_needed(0.01) == 299
    assert images_needed(0.001) == 2995


@pytest.mark.parametrize("alpha", [0.001, 0.0075, 0.01, 0.015, 0.08, 1 / 3])
def test_a_rate_on_average_takes_fewer_images(alpha: float) -> None:
    n = images_needed_on_average(alpha)
    assert expected_level(n - 1, alpha) is None
    assert expected_level(n, alpha) == pytest.approx(1 / (n + 1))
    assert n < images_needed(alpha)
    for images in (n, 3 * n, 1000 * n):
        level = expected_level(images, alpha)
        assert level is not None
        flagged = round(level * (images + 1))
        # of the Beta law of the realised rate
        assert beta.mean(flagged, images + 1 - flagged) <= alpha + 1e-12


@given(st.integers(1, 60), st.integers(0, 60), st.floats(0.001, 0.999))
def test_binomial_cdf_is_scipys(n: int, k: int, p: float) -> None:
    assert binomial_cdf(min(k, n), n, p) == pytest.approx(binom.cdf(min(k, n), n, p), abs=1e-9)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50), st.floats(-100, 100))
def test_p_value_counts_scores_at_least_as_high(scores: list[float], score: float) -> None:
    kept = np.sort(np.array(scores, dtype=np.float32))
    at_least = sum(s >= np.float32(score) for s in kept)
    assert conformal_p(kept, score) == pytest.approx((1 + at_least) / (len(kept) + 1))


def test_a_score_that_is_no_number_has_no_p_value() -> None:
    scores = np.array([0.0, 1.0], dtype=np.float32)
    assert np.isnan(conformal_p(scores, float("nan")))
    assert np.isnan(conformal_p(scores, float("inf")))


def test_realised_false_positive_rate_is_the_promised_one() -> None:
    rng = np.random.default_rng(0)
    n, alpha = 200, 0.05
    rates = []
    for _ in range(300):
        scores = np.sort(rng.normal(size=n).astype(np.float32))
        level = assured_level(n, alpha)
        assert level is not None
        fresh = rng.normal(size=2000)
        # flagged when p <= level, that is, when fewer than rank scores are at least as high
        limit = scores[n - rank(n, level)]
        rates.append(np.mean(fresh > limit))
    assert np.mean(np.array(rates) <= alpha) >= 0.92  # 95 % but for the sampling of `fresh`


def test_each_predicted_class_has_its_own_cell() -> None:
    readings = Readings(
        logits=np.zeros((4, 2), np.float32),
        probabilities=np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.1, 0.9]], np.float32),
        scores=np.array([[1.0], [2.0], [10.0], [20.0]], np.float32),
        fused=np.array([1.0, 2.0, 10.0, 20.0], np.float32),
        quality=np.zeros(4, np.float32),
    )
    calibration = Calibration.learn(readings, classes=3)
    assert [len(cell) for cell in calibration.cells] == [2, 2, 0]
    p = calibration.p_values(readings)
    assert [found.fused for found in p] == pytest.approx([1.0, 2 / 3, 1.0, 2 / 3])


def test_a_rare_class_still_knows_what_no_class_looks_like() -> None:
    """Ten images tell no strange one apart, and the model may see their class in anything."""
    n, few = 300, 10
    quality = np.random.default_rng(0).normal(size=n + few).astype(np.float32)
    usual = np.tile(np.float32([0.9, 0.1]), (n, 1))
    rare = np.tile(np.float32([0.1, 0.9]), (few, 1))
    readings = Readings(
        logits=np.zeros((n + few, 2), np.float32),
        probabilities=np.concatenate([usual, rare]),
        scores=quality[:, None],
        fused=quality,
        quality=quality,
    )
    cells = Calibration.learn(readings, 3).cells
    assert [len(cell.quality) for cell in cells] == 3 * [n + few]
    levels = [levels_for(cell, Alphas(flag=0.01, reject=0.01, quality=0.01)) for cell in cells]
    assert [level.images for level in levels] == [n, few, 0]
    assert [level.flag is None for level in levels] == [False, True, True]
    assert [level.quality for level in levels] == pytest.approx(3 * [3 / 311])


def test_a_source_unlike_the_others_gets_the_rate_of_its_own_images() -> None:
    """One hospital scores higher: over both the promise holds on average, and there it breaks."""
    rng = np.random.default_rng(0)

    def readings(high: int, low: int) -> Readings:
        fused = np.r_[rng.normal(1, 1, high), rng.normal(0, 1, low)].astype(np.float32)
        n = high + low
        return Readings(
            logits=np.zeros((n, 2), np.float32),
            probabilities=np.tile(np.float32([0.9, 0.1]), (n, 1)),
            scores=fused[:, None],
            fused=fused,
            quality=np.zeros(n, np.float32),
        )

    sources = ["east"] * 1000 + ["west"] * 3000
    calibration = Calibration.learn(readings(1000, 3000), 2, sources, least=299)
    fresh = readings(20_000, 20_000)
    known = calibration.p_values(fresh, ["east"] * 20_000 + ["west"] * 20_000)
    unknown = calibration.p_values(fresh, ["nobody"] * 40_000)

    def rates(found: list[PValues]) -> list[float]:
        small = np.array([p.fused <= 0.01 for p in found])
        return [small[:20_000].mean(), small[20_000:].mean()]

    assert all(rate <= 0.0155 for rate in rates(known))
    assert rates(unknown)[0] > 0.025
    assert {p.source for p in known} == {"east", "west"}
    assert {p.source for p in unknown} == {None}


def test_a_source_with_too_few_images_is_judged_by_its_class() -> None:
    n = 310
    readings = Readings(
        logits=np.zeros((n, 2), np.float32),
        probabilities=np.tile(np.float32([0.9, 0.1]), (n, 1)),
        scores=np.zeros((n, 1), np.float32),
        fused=np.arange(n, dtype=np.float32),
        quality=np.zeros(n, np.float32),
    )
    calibration = Calibration.learn(readings, 2, ["big"] * 300 + [""] * 10, least=300)
    assert calibration.cell(0, "big")[1] == "big"
    assert calibration.cell(1, "big") == (calibration.cells[1], None)
    calibration = Calibration.learn(readings, 2, ["small"] * 299 + [""] * 11, least=300)
    assert calibration.cell(0, "small") == (calibration.cells[0], None)
