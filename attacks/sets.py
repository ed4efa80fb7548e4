"""Attack, write, picture and sum up: what ``lazaret attack`` does with a bench and some images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attacks.adversarial import Outcome
from attacks.contact_sheet import MOST, Contact, contact_sheet
from attacks.crew import Crew
from attacks.generate import Progress, Sources, assemble, attack_parts
from attacks.judge import agree
from attacks.part_store import PartStore
from attacks.self_check import Finding, RunResult, compare
from attacks.shards import (
    MANIFEST,
    SetWriter,
    ShardProblem,
    outcome_of,
    read_manifest,
    recipe_of,
)
from attacks.spec import AttackSpec
from attacks.work import UNIT, Bench, Part, Unit, cut, unit_digest
from models.imaging.decode import digest

SHEET = "contact_sheet.png"


@dataclass(frozen=True, slots=True)
class Written:
    """One finished set."""

    folder: Path
    outcome: Outcome
    digest: str
    """Of the manifest, and so of the set."""
    made_before: bool
    """It was there already, from the same code, model, images, attack and seed."""


def write_sets(
    bench: Bench,
    specs: Sequence[AttackSpec],
    sources: Sources,
    out: Path,
    *,
    classes: Sequence[str],
    crew: Crew | None = None,
    store: PartStore | None = None,
    files: bool = False,
    progress: Progress | None = None,
    known: Callable[[AttackSpec], None] = lambda _: None,
    finished: list[Written],
) -> None:
    """One folder a spec below ``out``, each appended to ``finished`` as it is done.

    Args:
        known: told of each set that is there already.

    Started again after it was stopped, it goes on where it was: finished sets are recognised and
    finished parts are in the store.

    Raises ``ShardProblem`` before any work if a folder holds a set that was made from something
    else, and what ``attack_parts`` raises.
    """
    size = UNIT["cpu" if bench.device == "cpu" else "cuda"]
    recipes = {}
    for spec in specs:
        units = cut([spec], sources.images, sources.labels, sources.keys, sources.targets, size)
        names = [unit_digest(bench, unit) for unit in units]
        recipes[spec.title] = recipe_of(spec, [*names, f"files {files}"])
    there = {spec.title: _there(out / spec.title, recipes[spec.title]) for spec in specs}
    digests = tuple(digest(image) for image in sources.images)
    pending = [spec for spec in specs if there[spec.title] is None]
    parts = attack_parts(bench, pending, sources, crew=crew, store=store)
    for spec in specs:
        if there[spec.title] is not None:
            known(spec)
    for spec in specs:
        before = there[spec.title]
        if before is not None:
            finished.append(before)
            continue
        writer = SetWriter(out / spec.title, files=files)
        small: list[tuple[Unit, Part]] = []
        contacts: list[Contact] = []
        missing = len(sources)
        while missing:
            unit, _, part = next(parts)
            writer.add(unit, part, bench.container)
            contacts += _contacts(unit, part, classes)[: MOST - len(contacts)]
            small.append((_without_pixels(unit), replace(part, pixels=part.pixels[:0], files=None)))
            missing -= len(unit.rows)
            if progress is not None:
                progress(spec, part)
        made = assemble(bench, spec, sources, digests, small, pixels=False)
        contact_sheet(spec.title, contacts, out / spec.title / SHEET)
        digest_of_set = writer.finish(
            made, model=bench.digest, attempts=bench.attempts, recipe=recipes[spec.title]
        )
        finished.append(Written(out / spec.title, made, digest_of_set, made_before=False))


def _there(folder: Path, recipe: str) -> Written | None:
    if not (folder / MANIFEST).exists():
        return None
    manifest = read_manifest(folder)
    if manifest.recipe != recipe:
        raise ShardProblem(
            f"{folder}: holds a set that was made from other images, another model, seed, option "
            "or version; choose another --out or remove it"
        )
    return Written(folder, outcome_of(folder, manifest), "", made_before=True)


def _without_pixels(unit: Unit) -> Unit:
    return replace(unit, pixels=unit.pixels[:0])


def _contacts(unit: Unit, part: Part, classes: Sequence[str]) -> list[Contact]:
    def said(answer: Any) -> str:
        if np.ndim(answer):
            present = np.flatnonzero(answer).tolist()
            return ", ".join(classes[i] for i in present) or "no finding"
        return classes[int(answer)]

    fooled = ~agree(part.predicted, part.clean_predicted)
    return [
        Contact(
            unit.pixels[i],
            part.pixels[i],
            said(part.clean_predicted[i]),
            said(part.predicted[i]),
            bool(fooled[i]),
        )
        for i in range(len(unit.rows))
    ]


def summary(written: Sequence[Written]) -> list[dict[str, object]]:
    """One row a set: what ``summary.json`` holds."""
    rows = []
    for item in written:
        outcome = item.outcome
        fooled = outcome.success
        harm = outcome.harm
        right = int(outcome.clean_correct.sum())
        rows.append(
            {
                "attack": outcome.spec.title,
                "images": len(outcome),
                "clean_correct": right,
                "success": outcome.success_rate,
                "undetected_harm": None if harm is None else float(harm.sum() / max(right, 1)),
                "median_linf": _median(outcome.linf, fooled),
                "median_l2": _median(outcome.l2, fooled),
                "median_l0": _median(outcome.l0, fooled),
                "mean_forwards": float(outcome.forwards.mean()),
                "mean_backwards": float(outcome.backwards.mean()),
                "unguided": sum(len(finding.keys) for finding in outcome.findings),
            }
        )
    return rows


def compared(written: Sequence[Written]) -> tuple[Finding, ...]:
    """What the sets of one run say about each other: signs that gradients hide the model."""
    return compare([RunResult.of(item.outcome.spec, item.outcome.success) for item in written])


def _median(values: npt.NDArray[Any], chosen: npt.NDArray[np.bool_]) -> float | None:
    """Of the successes; None where there are none."""
    return float(np.median(values[chosen])) if chosen.any() else None
