"""What a guard must show before it may take another one's place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from detectors.evaluation import CleanResult, ShiftResult
from detectors.null_test import NullResult
from detectors.paired import PairedHarm
from detectors.speed import Cost
from detectors.wording import percent, plain_percent, points, titled

EDGE = 1e-9  # what equals its limit does not exceed it


@dataclass(frozen=True, slots=True)
class Margins:
    """By how much the new guard may be worse than the old one."""

    harm: float = 0.02
    """Undetected harm of any attack, as a share of images."""
    shifts: float = 0.02
    """False alarms on benign shifts, as a share of images, all shifts together."""
    cost: float = 1.05
    """The graph's bytes and its time an image, as a ratio."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition, and what it found."""

    name: str
    value: float
    """What was measured; NaN where it could not be."""
    limit: float
    """The largest value that passes, where the value is certain."""
    passed: bool
    sentence: str
    """Why."""


def all_passed(gates: Sequence[Gate]) -> bool:
    """Whether every gate passed, and there was one."""
    return bool(gates) and all(gate.passed for gate in gates)


def null_gate(old: Sequence[NullResult], new: Sequence[NullResult]) -> Gate:
    """Benign against benign must look alike to both guards: the value counts scores that fail."""
    failed = [
        f"{result.detector} of the {name} guard"
        for name, results in (("old", old), ("new", new))
        for result in results
        if not result.passed
    ]
    said = "benign images look alike to every score"
    if failed:
        said = (
            f"it fails for {', '.join(dict.fromkeys(failed))}: the comparison leaks or the splits "
            "differ, so nothing else is reported"
        )
    return Gate("null test", len(failed), 0, not failed, said)


def false_alarm_gate(clean: CleanResult, nominal: float) -> Gate:
    """The realised FPR of the adversarial route. It fails when its whole interval is above what was
    asked for, which is more than chance."""
    realised = clean.adversarial
    passed = realised.low <= nominal
    relation = "agrees with" if passed else "is above"
    return Gate(
        "false alarms",
        realised.value,
        nominal,
        passed,
        f"{percent(realised)} of clean images are held by the adversarial route, which {relation} "
        f"the nominal {plain_percent(nominal)}",
    )


def harm_gate(harm: PairedHarm, margin: float) -> Gate:
    """Undetected harm of one attack must not rise by more than the margin, neither at a realised
    clean FPR of 1 % nor as served: whichever rose more counts."""
    name = f"undetected harm, {titled(harm.attack, harm.epsilon)}, made for {harm.made_for}"
    if harm.images == 0:
        return Gate(
            name, math.nan, margin, False, "no attacked image was diagnosed right when clean"
        )
    served = harm.difference_served.value > harm.difference.value
    old, new, change = (
        (harm.old_served, harm.new_served, harm.difference_served)
        if served
        else (harm.old, harm.new, harm.difference)
    )
    said = (
        f"{plain_percent(old.value)} before, {plain_percent(new.value)} now"
        f"{', as served' if served else ''}: a change of {points(change)} points"
    )
    passed = change.value <= margin + EDGE
    if not passed:
        said += f", more than the {100 * margin:g} allowed"
    elif change.high > margin + EDGE:
        said += f"; {harm.images} images cannot rule out more than {100 * margin:g}"
    return Gate(name, change.value, margin, passed, said)


def shift_gate(old: Sequence[ShiftResult], new: Sequence[ShiftResult], margin: float) -> Gate:
    """False alarms on benign shifts, weighed by their images: the value is their rise."""
    before, after = shifted_share(old), shifted_share(new)
    rise = after - before
    passed = rise <= margin + EDGE
    said = f"{plain_percent(before)} of shifted images were held before, {plain_percent(after)} now"
    if not passed:
        said += f", more than {100 * margin:g} points more"
    return Gate("benign shifts", rise, margin, passed, said)


def shifted_share(shifts: Sequence[ShiftResult]) -> float:
    """Share of all shifted images that the adversarial route holds."""
    images = sum(shift.images for shift in shifts)
    return sum(shift.images * shift.adversarial.value for shift in shifts) / images


def cost_gates(cost: Cost, limit: float) -> tuple[Gate, Gate]:
    """Bytes are exact. Time is not: it fails when the whole interval is above the limit."""
    size = cost.new_bytes / cost.old_bytes
    small, fast = size <= limit + EDGE, cost.ratio.low <= limit + EDGE

    def verdict(passed: bool) -> str:
        return "" if passed else f", more than {limit:g}"

    return (
        Gate(
            "graph size",
            size,
            limit,
            small,
            f"{cost.old_bytes:,} bytes before, {cost.new_bytes:,} now: {size:.2f} times as many"
            + verdict(small),
        ),
        Gate(
            "time an image",
            cost.ratio.value,
            limit,
            fast,
            f"{cost.old_ms:.2f} ms before, {cost.new_ms:.2f} ms now: {cost.ratio.described} times "
            "as long" + verdict(fast),
        ),
    )
