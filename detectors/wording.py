"""Numbers and attackers in words, for every report."""

from __future__ import annotations

import math
from enum import StrEnum

from detectors.evaluation import Estimate, Knowledge

NOTHING = "–"

ATTACKERS: dict[Knowledge, str] = {
    "unaware": "knows the model, not the guard; families that the guard was fitted on",
    "unseen": "knows the model, not the guard; families that the guard was not fitted on",
    "black_box": "only sends images and reads answers (black box)",
    "aware": "knows model and guard (guard-aware)",
}
"""Who attacks, after "an attacker who"."""


class Standing(StrEnum):
    """An estimate beside its target."""

    MET = "within target"
    UNSURE = "target not assured"
    MISSED = "above target"
    UNMEASURED = "not measured"


def standing(estimate: Estimate, target: float) -> Standing:
    """Met when the whole interval is at most ``target``, missed when the estimate is above it."""
    if math.isnan(estimate.value):
        return Standing.UNMEASURED
    if estimate.value > target:
        return Standing.MISSED
    return Standing.MET if estimate.high <= target else Standing.UNSURE


def percent(estimate: Estimate) -> str:
    """``1.2 % (0.4 to 2.8)``."""
    if math.isnan(estimate.value):
        return NOTHING
    return (
        f"{plain_percent(estimate.value)} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"
    )


def plain_percent(value: float) -> str:
    """``1.2 %``, or a dash where nothing was counted."""
    return f"{100 * value:.1f} %" if math.isfinite(value) else NOTHING


def points(change: Estimate) -> str:
    """A difference of shares in percentage points with its interval: ``+1.2 (-0.4 to +2.8)``."""
    if math.isnan(change.value):
        return NOTHING
    return f"{100 * change.value:+.1f} ({100 * change.low:+.1f} to {100 * change.high:+.1f})"


def number(value: float) -> str:
    """Three decimals, or a dash where nothing was counted."""
    return f"{value:.3f}" if math.isfinite(value) else NOTHING


def budget(epsilon: float) -> str:
    """Grey levels, or a dash for attacks without a budget."""
    return f"{epsilon:g}" if epsilon > 0 else NOTHING


def titled(attack: str, epsilon: float) -> str:
    """``pgd at 2/255``."""
    return f"{attack} at {epsilon:g}/255" if epsilon > 0 else attack


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table and an empty line."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]
