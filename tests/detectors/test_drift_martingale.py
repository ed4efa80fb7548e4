"""The drift test alarms as rarely as it says while nothing drifts, and soon when something does."""

import json
import math

import numpy as np
import pytest

from detectors.calibrate import Cell, assured_level
from detectors.drift import BINS, DriftTest, Gaps, bets, idle

FALSE_ALARM = 0.05


def cell(scores: np.ndarray) -> Cell:
    ordered = np.sort(scores.astype(np.float32))
    return Cell(ordered, ordered, ordered[:, None])


def gaps_of(scores: np.ndarray, alpha: float = 0.01) -> Gaps:
    return Gaps.of(cell(scores), assured_level(len(scores), alpha), seed=1)


def play(test: DriftTest, gaps: Gaps, scores: np.ndarray, rng: np.random.Generator) -> DriftTest:
    for score in scores:
        test.see(0, gaps, float(score), *rng.random(2))
    return test


def test_every_bet_is_fair() -> None:
    points = (np.arange(200_000) + 0.5) / 200_000
    paid = np.array([bets(float(p)) for p in points])
    assert (paid >= 0).all()
    assert paid.mean(axis=0) == pytest.approx(1, abs=0.002)


def test_capital_joins_until_none_is_idle() -> None:
    shares = [idle(n) for n in range(1000)]
    assert shares[0] == 1
    assert (np.diff(shares) < 0).all()
    assert DriftTest().capital == 1


@pytest.mark.parametrize("decimals", [7, 1])
def test_p_values_are_uniform_given_the_past(decimals: int) -> None:
    """With a small calibration set, also where most scores are tied: what a fixed calibration
    set's p-values are not."""
    rng = np.random.default_rng(decimals)
    found, follows = [], []
    for _ in range(300):
        test = DriftTest(1e-9)
        gaps = gaps_of(np.round(rng.normal(size=60), decimals), alpha=0.1)
        last = 0.0
        for score in np.round(rng.normal(size=80), decimals):
            before, seen = test.sum_p, test.images
            test.see(0, gaps, float(score), *rng.random(2))
            if test.images > seen:
                p = test.sum_p - before
                found.append(p)
                follows.append((last, p))
                last = p
    grid = np.linspace(0.05, 0.95, 19)
    share = (np.array(found)[:, None] <= grid).mean(axis=0)
    assert share == pytest.approx(grid, abs=0.015)
    assert abs(np.corrcoef(np.array(follows).T)[0, 1]) < 0.03


def test_false_alarms_keep_to_the_bound() -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(60):
        calibration, traffic = rng.normal(size=150), rng.normal(size=600)
        test = play(DriftTest(FALSE_ALARM), gaps_of(calibration), traffic, rng)
        alarms += test.drifted_after is not None
    # 3 of 60 are allowed on average; 9 or more would happen once in 500 times.
    assert alarms <= 8


def test_attacks_beyond_the_level_are_no_drift() -> None:
    rng = np.random.default_rng(1)
    traffic = rng.normal(size=400)
    traffic[::4] = 10.0
    test = play(DriftTest(), gaps_of(rng.normal(size=500)), traffic, rng)
    assert test.drifted_after is None
    assert test.images <= 300


@pytest.mark.parametrize(
    ("change", "within"),
    [
        (lambda x, i: x + 1.0, 150),
        (lambda x, i: x - 1.0, 150),
        (lambda x, i: 2.5 * x, 150),
        (lambda x, i: x + i / 500, 600),
    ],
    ids=["up", "down", "wider", "slowly"],
)
def test_a_change_is_found_soon(change: object, within: int) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        gaps = gaps_of(rng.normal(size=400))
        test = play(DriftTest(), gaps, rng.normal(size=300), rng)
        assert test.drifted_after is None
        traffic = [change(x, i) for i, x in enumerate(rng.normal(size=within))]
        play(test, gaps, np.array(traffic), rng)
        assert test.drifted_after is not None
        assert test.capital >= 1000


def test_a_stored_test_goes_on_as_if_nothing_happened() -> None:
    rng = np.random.default_rng(3)
    gaps = gaps_of(rng.normal(size=200))
    scores, chances = rng.normal(size=100), rng.random((100, 2))
    straight, stopped = DriftTest(), DriftTest()
    for score, (tie, place) in zip(scores, chances, strict=True):
        straight.see(0, gaps, float(score), tie, place)
        stopped.see(0, gaps, float(score), tie, place)
        document = json.loads(json.dumps(stopped.as_document()))
        stopped = DriftTest.from_document(document, stopped.false_alarm)
    assert stopped.as_document() == straight.as_document()
    assert stopped.evidence == straight.evidence
    with pytest.raises(ValueError, match="capital"):
        DriftTest.from_document({**straight.as_document(), "playing": [[1.0]]}, 0.01)


@pytest.mark.parametrize("images", [0, 1, 5, 1000])
def test_any_size_of_calibration_set(images: int) -> None:
    rng = np.random.default_rng(4)
    gaps = gaps_of(rng.normal(size=images))
    test = play(DriftTest(), gaps, rng.normal(size=50), rng)
    assert math.isfinite(test.evidence)
    assert len(gaps.empty()) <= BINS
    assert sum(gaps.empty()) == gaps.accepted
