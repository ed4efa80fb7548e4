"""An old and a new guard side by side: ``comparison.json`` and ``comparison.md``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from detectors.evaluation import CleanResult, ShiftResult
from detectors.fit import CARD
from detectors.gates import (
    Gate,
    Margins,
    all_passed,
    cost_gates,
    false_alarm_gate,
    harm_gate,
    null_gate,
    shift_gate,
)
from detectors.null_test import NullResult
from detectors.paired import PairedHarm
from detectors.samples import Samples
from detectors.speed import Cost
from detectors.trial import Trial, detector_names
from detectors.wording import budget, number, percent, points, table

JSON, PAGE = "comparison.json", "comparison.md"


@dataclass(frozen=True, slots=True)
class Side:
    """What one guard says beside its harm."""

    bundle: str
    model: str
    detectors: tuple[str, ...]
    nominal: float
    """False-alarm rate of the adversarial route that the bundle was calibrated for."""
    clean: CleanResult
    shifts: tuple[ShiftResult, ...]
    null: tuple[NullResult, ...]
    null_refitted: tuple[NullResult, ...]

    @classmethod
    def of(cls, trial: Trial, shifts: Sequence[Samples]) -> Side:
        """From its trial; ``shifts`` are judged here."""
        model = trial.bundle.manifest.model
        return cls(
            trial.bundle.digest,
            f"{model.name} {model.version}",
            detector_names(trial.bundle),
            trial.bundle.manifest.alphas.flag,
            trial.clean_result(),
            tuple(trial.shift_result(trial.judge(samples)) for samples in shifts),
            trial.null,
            trial.null_refitted,
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two guards of one model on the same untouched test patients."""

    promotable: bool
    gates: tuple[Gate, ...]
    margins: Margins
    provenance: dict[str, Any]
    old: Side
    new: Side
    harms: tuple[PairedHarm, ...]
    cost: Cost
    schema_version: Literal[1] = 1

    def to_json(self) -> str:
        """JSON text; a number that is not finite becomes null."""
        return TypeAdapter(Comparison).dump_json(self, indent=1).decode() + "\n"


def compare(
    old: Side,
    new: Side,
    harms: Sequence[PairedHarm],
    cost: Cost,
    margins: Margins,
    provenance: dict[str, Any],
) -> Comparison:
    """Every gate, in the order of a report. Where the null test fails it is the only one: no other
    number means anything then."""
    found = [null_gate((*old.null, *old.null_refitted), (*new.null, *new.null_refitted))]
    if found[0].passed:
        found += [
            false_alarm_gate(new.clean, new.nominal),
            *(harm_gate(harm, margins.harm) for harm in harms),
            shift_gate(old.shifts, new.shifts, margins.shifts),
            *cost_gates(cost, margins.cost),
        ]
    return Comparison(
        all_passed(found),
        tuple(found),
        margins,
        provenance,
        old,
        new,
        tuple(harms),
        cost,
    )


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write ``comparison.json`` and ``comparison.md`` into the new bundle, and on its card which it
    is."""
    (folder / JSON).write_text(comparison.to_json())
    (folder / PAGE).write_text(page(comparison))
    failed = [gate.name for gate in comparison.gates if not gate.passed]
    verdict = f"Not promotable: {'; '.join(failed)}." if failed else "Promotable."
    with (folder / CARD).open("a") as card:
        card.write(f"{verdict} Beside the guard it was retrained from: [{PAGE}]({PAGE}).\n")


def page(comparison: Comparison) -> str:
    """The comparison as Markdown."""
    verdict = "promotable" if comparison.promotable else "**not** promotable"
    return "\n".join(
        [
            f"# Old and new guard for {comparison.new.model}",
            "",
            f"The new guard is {verdict}. Both were judged on the same test patients, which "
            "neither was fitted on. Intervals are 95 %, over patients. The model is a "
            "demonstration, not a medical device.",
            "",
            "## Gates",
            "",
            *table(
                ["gate", "", "value", "limit", "why"],
                [
                    [
                        gate.name,
                        "passed" if gate.passed else "**failed**",
                        number(gate.value),
                        number(gate.limit),
                        gate.sentence,
                    ]
                    for gate in comparison.gates
                ],
            ),
            *_null(comparison.old, comparison.new),
            *(_numbers(comparison) if comparison.gates[0].passed else ()),
            "## How this was made",
            "",
            *(f"- {name}: {value}" for name, value in comparison.provenance.items()),
            "",
        ]
    )


def _null(old: Side, new: Side) -> list[str]:
    columns = [results for side in (old, new) for results in (side.null, side.null_refitted)]
    names = dict.fromkeys(result.detector for results in columns for result in results)
    return [
        "## Null test, AUC of benign against benign",
        "",
        *table(
            ["score", "old", "old, fitted anew", "new", "new, fitted anew"],
            [[name, *(_auc(results, name) for results in columns)] for name in names],
        ),
    ]


def _numbers(comparison: Comparison) -> list[str]:
    old, new, cost = comparison.old, comparison.new, comparison.cost
    harms = [
        [
            harm.attack,
            budget(harm.epsilon),
            str(harm.made_for),
            str(harm.images),
            percent(harm.old),
            percent(harm.new),
            points(harm.difference),
            percent(harm.old_served),
            percent(harm.new_served),
            points(harm.difference_served),
        ]
        for harm in comparison.harms
    ]
    clean = [
        ["accuracy", percent(old.clean.accuracy), percent(new.clean.accuracy)],
        [
            "held, adversarial route",
            percent(old.clean.adversarial),
            percent(new.clean.adversarial),
        ],
        ["held, quality route", percent(old.clean.quality), percent(new.clean.quality)],
    ]
    shifts = [
        [a.shift, f"{a.severity:g}", percent(a.adversarial), percent(b.adversarial)]
        for a, b in zip(old.shifts, new.shifts, strict=True)
    ]
    return [
        "## Undetected harm",
        "",
        "At a realised clean false-positive rate of 1 % for both, and *served*: at each bundle's "
        "own levels. Made for *the model* and for *the old guard*: both guards see the same "
        "images. Made for *each guard*: each faces an attacker who knows it. Differences are in "
        "percentage points, new less old, over the same patients.",
        "",
        *table(
            [
                *("attack", "ε /255", "made for", "images", "old", "new", "difference"),
                *("old, served", "new, served", "difference, served"),
            ],
            harms,
        ),
        f"## Clean images, {new.clean.images} of {new.clean.patients} patients",
        "",
        *table(["", "old", "new"], clean),
        "## Benign shifts, held by the adversarial route",
        "",
        *table(["shift", "severity", "old", "new"], shifts),
        "## Cost",
        "",
        *table(
            ["", "old", "new"],
            [
                ["graph, bytes", f"{cost.old_bytes:,}", f"{cost.new_bytes:,}"],
                ["ms an image", f"{cost.old_ms:.2f}", f"{cost.new_ms:.2f}"],
            ],
        ),
    ]


def _auc(results: Sequence[NullResult], detector: str) -> str:
    return number(next((r.auc for r in results if r.detector == detector), float("nan")))
