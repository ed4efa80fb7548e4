"""What ``lazaret attack`` shows: every attack there is, how far it got, what came of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from attacks.catalogue import entries
from attacks.self_check import Finding
from attacks.sets import Written, summary
from attacks.spec import AttackSpec
from attacks.work import Part
from service.cli.offline import console

SUMMARY = "summary.json"
FINDINGS = "findings.json"


class AttackProgress:
    """A bar over all attacks and one for the present one, with rate, success and time left. Where
    there is no terminal, a line for every finished attack."""

    def __init__(self, specs: Sequence[AttackSpec], images: int) -> None:
        self._images = images
        self._total = len(specs) * images
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[success]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._started = perf_counter()
        self._all: TaskID | None = None
        self._one: TaskID | None = None
        self._title = ""
        self._done = self._done_one = self._fooled = 0

    def __enter__(self) -> Self:
        self._bars.start()
        self._all = self._bars.add_task("all attacks", total=self._total, rate="", success="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def known(self, spec: AttackSpec) -> None:  # noqa: ARG002  all have as many images
        """A set is there already and need not be made: neither work done nor work left."""
        assert self._all is not None
        self._total -= self._images
        self._bars.update(self._all, total=self._total)

    def advance(self, spec: AttackSpec, part: Part) -> None:
        """Count one finished part."""
        if spec.title != self._title:
            if self._one is not None:
                self._bars.remove_task(self._one)
            self._title, self._done_one, self._fooled = spec.title, 0, 0
            self._one = self._bars.add_task(spec.title, total=self._images, rate="", success="")
        assert self._all is not None
        assert self._one is not None
        count = len(part.linf)
        changed = part.predicted != part.clean_predicted
        self._fooled += int((changed.any(axis=1) if changed.ndim == 2 else changed).sum())
        self._done += count
        self._done_one += count
        rate = self._done / max(perf_counter() - self._started, 1e-9)
        success = f"{self._fooled / self._done_one:.0%} changed"
        self._bars.update(self._all, completed=self._done, rate=f"{rate:.2f} images/s")
        self._bars.update(self._one, completed=self._done_one, success=success)
        if self._done_one == self._images and not console.is_terminal:
            left = (self._total - self._done) / rate
            console.print(
                f"{spec.title}: {success}; {self._done} of {self._total}, {rate:.2f} images/s, "
                f"about {left / 60:.0f} minutes left"
            )


def print_summary(written: Sequence[Written], out: Path) -> None:
    """A table of the finished sets, and the same numbers as ``summary.json``."""
    if not written:
        return
    rows = summary(written)
    guarded = any(row["undetected_harm"] is not None for row in rows)
    columns = ["success", "L-inf", "L2", "L0", "passes"]
    if guarded:
        columns.insert(1, "harm")
    table = Table(Column("attack", no_wrap=True), *columns)
    for row in rows:
        cells = [
            str(row["attack"]),
            _share(row["success"]),
            _number(row["median_linf"]),
            _number(row["median_l2"]),
            _number(row["median_l0"]),
            f"{_number(row['mean_forwards'])} + {_number(row['mean_backwards'])}",
        ]
        if guarded:
            cells.insert(2, _share(row["undetected_harm"]))
        table.add_row(*cells)
    console.print(table)
    console.print(
        "Success is of images diagnosed right; norms are medians of the successes in grey levels "
        "(L0: pixels); passes are forward + backward, means."
        + (" Harm: success that the guard accepted." if guarded else ""),
        style="dim",
    )
    for row in rows:
        if row["unguided"]:
            console.print(
                f"{row['attack']}: gradients gave no guidance on {row['unguided']} images; see "
                "`findings` in its manifest",
                style="yellow",
                markup=False,
            )
    (out / SUMMARY).write_text(json.dumps(rows, indent=1) + "\n")
    console.print(f"{out}: {len(written)} sets, {SUMMARY}", markup=False)


def print_findings(findings: Sequence[Finding], out: Path) -> None:
    """Signs of masked gradients, in words and as ``findings.json``."""
    if not out.exists():
        return
    for finding in findings:
        console.print(f"finding: {finding}", style="yellow", markup=False)
    rows = [
        {
            "symptom": finding.symptom.value,
            "what": finding.what,
            "advice": finding.advice,
            "images": list(finding.rows),
        }
        for finding in findings
    ]
    (out / FINDINGS).write_text(json.dumps(rows, indent=1) + "\n")


def _share(value: object) -> str:
    return "" if value is None or value != value else f"{float(value):.1%}"  # type: ignore[arg-type]  # a number, by the summary


def _number(value: object) -> str:
    if value is None:
        return ""
    number = float(value)  # type: ignore[arg-type]  # a number, by the summary
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def print_attacks() -> None:
    """Every attack: what it needs, its norms, its parameters with defaults, its source."""
    shown = Console(highlight=False)
    for entry in entries():
        shown.print(
            f"[bold]{entry.name}[/bold]  {entry.category}; needs {entry.needs}; {entry.norms}"
        )
        shown.print(Padding(escape(", ".join(entry.parameters)), (0, 0, 0, 4)))
        shown.print(Padding(escape(entry.citation), (0, 0, 0, 4)), style="dim")
