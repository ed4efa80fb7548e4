"""Wrong statistics make a wrong report look right."""

import numpy as np
import pytest
from scipy.stats import binomtest, mannwhitneyu
from sklearn.metrics import roc_auc_score, roc_curve

from detectors.calibrate import conformal_p
from detectors.statistics import (
    auc,
    auc_by_chance,
    bootstrap_over_groups,
    proportion_interval,
    roc,
    tpr_at_fpr,
)

RNG = np.random.default_rng(0)
NEGATIVE = np.round(RNG.normal(0, 1, 300), 1)  # rounded: many ties
POSITIVE = np.round(RNG.normal(1, 1, 200), 1)
TRUTH = np.r_[np.zeros(300), np.ones(200)]
SCORES = np.r_[NEGATIVE, POSITIVE]


def test_auc_and_roc_agree_with_scikit_learn_and_scipy_under_ties() -> None:
    assert auc(NEGATIVE, POSITIVE) == pytest.approx(roc_auc_score(TRUTH, SCORES), abs=1e-12)
    u = mannwhitneyu(POSITIVE, NEGATIVE).statistic
    assert auc(NEGATIVE, POSITIVE) == pytest.approx(u / (300 * 200), abs=1e-12)
    fpr, tpr = roc(NEGATIVE, POSITIVE)
    expected = roc_curve(TRUTH, SCORES, drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected[0])
    np.testing.assert_allclose(tpr, expected[1])
    assert np.isnan(auc(NEGATIVE, POSITIVE[:0]))


@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.5])
def test_the_threshold_is_the_one_that_serving_uses(fpr: float) -> None:
    calibration = np.sort(NEGATIVE.astype(np.float32))
    flagged = [conformal_p(calibration, float(s)) <= fpr for s in POSITIVE.astype(np.float32)]
    assert tpr_at_fpr(NEGATIVE, POSITIVE, fpr) == pytest.approx(np.mean(flagged))


def test_too_few_negatives_give_no_answer_instead_of_a_flattering_one() -> None:
    assert np.isnan(tpr_at_fpr(NEGATIVE[:98], POSITIVE, 0.01))
    assert not np.isnan(tpr_at_fpr(NEGATIVE[:99], POSITIVE, 0.01))


def test_intervals_over_groups_see_that_copies_carry_no_news() -> None:
    values = RNG.normal(0, 1, 100)
    groups = np.repeat(np.arange(100), 25)
    copies = np.repeat(values, 25)
    low, high = bootstrap_over_groups(lambda rows: float(copies[rows].mean()), groups)
    exact = 1.96 * values.std() / 10
    assert (high - low) / 2 == pytest.approx(exact, rel=0.15)
    assert bootstrap_over_groups(lambda rows: float("nan"), groups, n=3) == pytest.approx(
        (np.nan, np.nan), nan_ok=True
    )


def test_chance_alone_is_what_the_exact_test_of_mann_and_whitney_says() -> None:
    scores, second = RNG.normal(0, 1, 60), np.arange(60) % 3 == 0
    low, high = auc_by_chance(scores, np.arange(60), second, confidence=0.99)
    assert low == pytest.approx(1 - high, abs=0.01)
    # ranks with exactly the AUC of the lower end, to the grain of one pair
    wins = round(low * 20 * 40)
    ranks = np.concatenate([np.arange(40.0), np.repeat(-1.0, 20)])
    for k in range(20):
        ranks[40 + k] += min(max(wins - 40 * k, 0), 40) + 0.5 - 0.001 * k
    exact = mannwhitneyu(ranks[40:], ranks[:40], method="exact", alternative="two-sided").pvalue
    assert exact == pytest.approx(0.01, abs=0.003)


def test_chance_deals_whole_patients() -> None:
    patient, groups = np.repeat(RNG.normal(0, 1, 40), 25), np.repeat(np.arange(40), 25)
    alone = auc_by_chance(patient[::25], np.arange(40), np.arange(40) < 20)
    assert auc_by_chance(patient, groups, groups < 20) == pytest.approx(alone, abs=0.01)
    with pytest.raises(ValueError, match="both halves"):
        auc_by_chance(patient, groups, np.arange(1000) < 510)


@pytest.mark.parametrize(("k", "n"), [(0, 20), (3, 20), (20, 20)])
def test_proportion_interval_agrees_with_scipy(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(method="exact")
    assert proportion_interval(k, n) == pytest.approx((expected.low, expected.high), abs=1e-9)
