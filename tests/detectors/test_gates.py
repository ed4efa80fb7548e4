"""Promotion gates and the release gate: what passes, what fails, and what they say."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detectors.comparison import Side, compare, page
from detectors.evaluation import CleanResult, Estimate, ShiftResult
from detectors.gates import (
    Margins,
    cost_gates,
    false_alarm_gate,
    harm_gate,
    null_gate,
    shift_gate,
)
from detectors.judgement import Fates
from detectors.null_test import NullResult
from detectors.paired import MadeFor, PairedHarm, difference, paired_harm
from detectors.release_gate import Release, Row, release_gates
from detectors.samples import Samples
from detectors.speed import Cost, median_interval
from detectors.trial import EvaluationProblem

PATIENTS = tuple(f"p{i // 2}" for i in range(100))
SAME = Cost(1000, 1000, 2.0, 2.0, Estimate(1.0, 0.98, 1.02))


def sure(value: float) -> Estimate:
    return Estimate(value, value, value)


def clean(adversarial: Estimate) -> CleanResult:
    nothing = sure(0.0)
    return CleanResult(200, 100, sure(0.9), adversarial, nothing, {}, nothing)


def shift(held: float, images: int = 100) -> ShiftResult:
    return ShiftResult("jpeg", 1.0, images, 0.9, sure(held), held, sure(0.0))


def samples() -> Samples:
    image = np.zeros((2, 2, 1), np.uint8)
    return Samples(
        (image,) * 100, np.zeros(100, np.int64), PATIENTS,
        tuple(str(i) for i in range(100)), "pgd", 2.0, attacked=True,
    )  # fmt: skip


def fate(harmed: int, served: int, eligible: int = 100) -> Fates:
    row = np.arange(100)
    return Fates(
        row < eligible, row < max(harmed, served), row < harmed, row < harmed, row < served
    )


def harm(old: Fates, new: Fates) -> PairedHarm:
    return paired_harm(samples(), old, new, made_for=MadeFor.MODEL)


def test_harm_may_rise_by_the_margin_and_no_more() -> None:
    assert harm_gate(harm(fate(10, 10), fate(12, 12)), 0.02).passed
    failed = harm_gate(harm(fate(10, 10), fate(13, 13)), 0.02)
    assert (failed.passed, round(failed.value, 6), failed.limit) == (False, 0.03, 0.02)
    assert "10.0 % before, 13.0 % now" in failed.sentence
    assert harm_gate(harm(fate(10, 10), fate(0, 0)), 0.0).passed


def test_harm_at_the_bundles_own_levels_counts_as_well() -> None:
    """A guard whose calibration supports no level flags nothing, whatever its scores are worth."""
    failed = harm_gate(harm(fate(10, 10), fate(5, 60)), 0.02)
    assert not failed.passed
    assert "as served" in failed.sentence


def test_harm_that_could_not_be_measured_does_not_pass() -> None:
    gate = harm_gate(harm(fate(0, 0, eligible=0), fate(0, 0, eligible=0)), 0.02)
    assert not gate.passed
    assert math.isnan(gate.value)


def test_only_images_that_both_diagnose_right_are_compared() -> None:
    found = harm(fate(10, 10, eligible=50), fate(10, 10, eligible=20))
    assert (found.images, found.patients) == (20, 10)
    assert found.old.value == found.new.value == 0.5


def test_a_paired_difference_is_as_sure_as_its_changes_are_many() -> None:
    old, new = np.zeros(100, bool), np.arange(100) < 10
    found = difference(old, new, PATIENTS)
    assert found.value == pytest.approx(0.1)
    assert 0.0 < found.low < 0.1 < found.high < 0.25
    # harmed alike: the pairs cancel, and the interval does not claim that no change is possible
    same = difference(new, new, PATIENTS)
    assert same.value == 0
    assert same.low == -same.high
    assert 0.02 < same.high < 0.05


def test_false_alarms_fail_when_they_are_more_than_chance() -> None:
    assert false_alarm_gate(clean(Estimate(0.02, 0.005, 0.05)), 0.01).passed
    failed = false_alarm_gate(clean(Estimate(0.04, 0.02, 0.07)), 0.01)
    assert (failed.passed, "is above" in failed.sentence) == (False, True)


def test_shifts_are_weighed_by_their_images() -> None:
    old = [shift(0.1), shift(0.0, images=300)]
    assert shift_gate(old, [shift(0.1), shift(0.02, images=300)], 0.02).passed
    assert not shift_gate(old, [shift(0.1), shift(0.04, images=300)], 0.02).passed


def test_a_larger_or_slower_graph_fails_but_noise_does_not() -> None:
    assert all(gate.passed for gate in cost_gates(SAME, 1.05))
    size, time = cost_gates(Cost(1000, 1051, 2.0, 2.4, Estimate(1.2, 1.04, 1.4)), 1.05)
    assert (size.passed, time.passed) == (False, True)
    _, time = cost_gates(Cost(1000, 1000, 2.0, 2.4, Estimate(1.2, 1.1, 1.3)), 1.05)
    assert not time.passed
    assert median_interval(np.full(40, 1.5)) == Estimate(1.5, 1.5, 1.5)


def side(null_passes: bool = True) -> Side:
    null = (NullResult("kd", 0.7, 0.6, 0.8, null_passes),)
    return Side(
        "sha256:0", "phantom 1", ("kd",), 0.01, clean(sure(0.01)), (shift(0.0),), null, null
    )


def test_without_a_null_test_nothing_else_is_said() -> None:
    found = compare(side(), side(null_passes=False), (), SAME, Margins(), {"seed": 0})
    assert not found.promotable
    assert [gate.name for gate in found.gates] == ["null test"]
    assert "kd of the new guard" in found.gates[0].sentence
    assert "Undetected harm" not in page(found)
    assert "Clean images" not in page(found)
    assert not null_gate(side(null_passes=False).null, side().null).passed


def test_a_comparison_is_promotable_when_every_gate_passes() -> None:
    good = harm(fate(10, 10), fate(10, 10))
    found = compare(side(), side(), [good], SAME, Margins(), {"seed": 0})
    assert found.promotable
    assert json.loads(found.to_json())["gates"][0]["passed"] is True
    assert "The new guard is promotable" in page(found)
    bad = harm(fate(10, 10), fate(20, 20))
    assert not compare(side(), side(), [good, bad], SAME, Margins(), {}).promotable


def row(harmed: float, served: float) -> Row:
    return Row("pgd", 2.0, "unaware", 62, 0.6, sure(harmed), sure(served))


def release(*rows: Row, attacks: str = "pgd") -> Release:
    return Release(0.05, {"attacks": attacks, "seed": 0}, rows, {"machine": "any"})


def test_the_release_gate_names_the_row_that_rose_and_by_how_much() -> None:
    last = release(row(0.02, 0.03), row(0.4, 0.5))
    assert all(gate.passed for gate in release_gates(last, release(row(0.07, 0.0), row(0.1, 0.5))))
    gates = release_gates(last, release(row(0.02, 0.03), row(0.46, 0.5)))
    (failed,) = (gate for gate in gates if not gate.passed)
    assert failed.name == "pgd at 2/255 (unaware)"
    assert "a rise of 6.0 points, more than the 5 allowed" in failed.sentence
    gates = release_gates(last, release(row(0.02, 0.2), row(math.nan, 0.5)))
    assert [gate.passed for gate in gates] == [True, False, False, True]


def test_the_release_gate_compares_like_with_like(tmp_path: Path) -> None:
    last = release(row(0.02, 0.03))
    with pytest.raises(EvaluationProblem, match="other attacks"):
        release_gates(last, release(row(0.02, 0.03), attacks="fgsm"))
    last.write(tmp_path / "gate.json")
    assert Release.read(tmp_path / "gate.json") == last
    with pytest.raises(EvaluationProblem, match="--write"):
        Release.read(tmp_path / "absent.json")
    # the margin is the last release's: a lax run cannot widen its own
    lax = replace(release(row(0.12, 0.03)), margin=1.0)
    assert not release_gates(last, lax)[0].passed
