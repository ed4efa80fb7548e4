"""Undetected harm now beside that of the last release, attack by attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from detectors.evaluation import Estimate, Knowledge
from detectors.gates import EDGE, Gate
from detectors.judgement import Attacked, fates, share
from detectors.trial import EvaluationProblem, Trial
from detectors.wording import percent, plain_percent, titled


@dataclass(frozen=True, slots=True)
class Row:
    """Undetected harm of one attack."""

    attack: str
    epsilon: float
    """Grey levels; 0 for attacks without a budget."""
    knowledge: Knowledge
    images: int
    """Attacked images that were diagnosed right when clean."""
    success: float
    """Share of them that are diagnosed wrong, detected or not."""
    undetected_harm: Estimate
    """At a realised clean FPR of 1 %."""
    undetected_harm_served: Estimate
    """At the bundle's own levels, both routes."""


@dataclass(frozen=True, slots=True)
class Release:
    """What a release let by, and what the next one is held against."""

    margin: float
    """By how much any of the shares may rise."""
    setting: dict[str, Any]
    """What the numbers hang on beside the code and the bundle: attacks, images, seed."""
    rows: tuple[Row, ...]
    provenance: dict[str, Any]
    schema_version: Literal[1] = 1

    @classmethod
    def read(cls, path: Path) -> Release:
        """Raises ``EvaluationProblem``."""
        try:
            return TypeAdapter(Release).validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise EvaluationProblem(
                f"{path}: {error}; write the numbers of the last release with --write"
            ) from None

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TypeAdapter(Release).dump_json(self, indent=1).decode() + "\n")


def measured(trial: Trial, attacked: Attacked, seed: int = 0) -> Row:
    """One attack before the bundle of ``trial``."""
    fate = fates(trial.clean, trial.judge(attacked.samples))
    kept = fate.eligible
    groups = [g for g, counts in zip(attacked.samples.groups, kept, strict=True) if counts]
    return Row(
        attacked.samples.origin,
        attacked.samples.level,
        attacked.knowledge,
        len(groups),
        float(fate.wrong[kept].mean()) if groups else float("nan"),
        share(fate.harmed[kept], groups, seed),
        share(fate.harmed_served[kept], groups, seed),
    )


def release_gates(last: Release, now: Release) -> tuple[Gate, ...]:
    """Two for each attack of the last release: at 1 % FPR, and as served.

    The attacks and images are the same and the code draws nothing at random, so a rise is the
    code's or the bundle's, not the sample's; the margin is for other processors' roundings and for
    what a release may trade. Raises ``EvaluationProblem`` when the two were measured differently.
    """
    if last.setting != now.setting:
        differ = [name for name in now.setting if last.setting.get(name) != now.setting[name]]
        raise EvaluationProblem(
            f"the last release was measured with other {', '.join(differ) or 'settings'}; measure "
            "alike, or write its numbers again with --write"
        )
    return tuple(
        gate
        for before, after in zip(last.rows, now.rows, strict=True)
        for gate in _row_gates(before, after, last.margin)
    )


def _row_gates(before: Row, after: Row, margin: float) -> Sequence[Gate]:
    name = f"{titled(after.attack, after.epsilon)} ({after.knowledge})"
    return (
        _gate(name, before.undetected_harm, after.undetected_harm, margin),
        _gate(
            f"{name}, as served",
            before.undetected_harm_served,
            after.undetected_harm_served,
            margin,
        ),
    )


def _gate(name: str, before: Estimate, after: Estimate, margin: float) -> Gate:
    limit = before.value + margin
    passed = after.value <= limit + EDGE  # NaN does not pass
    said = f"{plain_percent(before.value)} at the last release, {percent(after)} now"
    if not passed:
        rise = 100 * (after.value - before.value)
        said += f": a rise of {rise:.1f} points, more than the {100 * margin:g} allowed"
    return Gate(name, after.value, limit, passed, said)
