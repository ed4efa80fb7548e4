"""Black-box attacks that know of no history: against the model, the history and both.

    python -m benchmarks.query_attacks --model chest-xray --data FOLDER [--images 100]

They are recorded once against the bare model and replayed (``query_traces``): in short for many
images, in full for a few. Adaptive ones have a benchmark of their own, ``query_adaptive``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from attacks.registry import methods
from benchmarks.page import command_of, publish
from benchmarks.query_traces import ATTACKS, Trace, record, sources
from benchmarks.query_watched import Watched, strangers
from models.machine import describe
from models.spec import Preprocessing
from service.query_store import Query

NAMES = [name for name, text in ATTACKS.items() if text.partition(":")[0] in methods()]


@dataclass(frozen=True)
class Outcome:
    """One replay."""

    detected: int | None
    """The index of the first question that was held."""
    harmed: int | None
    """Of the first wrong answer about an image close to the source that was not held."""


def replay(
    trace: Trace,
    watched: Watched,
    identities: int,
    study: int = 0,
    others: Callable[[], Iterator[Query]] = lambda: iter(()),
) -> Outcome:
    """Put a recording to a history.

    Args:
        identities: the questions go round so many senders.
        others: benign queries between two questions.
    """
    detected = harmed = None
    for i, (image, answer) in enumerate(zip(trace.queries, trace.answers, strict=True)):
        watched.pass_by(others())
        held = watched.see(image, int(answer), 1 + i % identities, study).attack
        if held and detected is None:
            detected = i
        if not held and harmed is None and answer != trace.label and trace.close(image):
            harmed = i
    return Outcome(detected, harmed)


def share(hits: int, count: int) -> str:
    """``97 of 100``."""
    return f"{hits} of {count}"


def replay_rows(
    names: Sequence[str],
    short: Sequence[Trace],
    full: Sequence[Trace],
    spec: Preprocessing,
    spread: int,
) -> list[str]:
    """Tables of every attack; ``spread`` runs of each also over identities and in traffic."""
    lines = [
        "| attack | success without the guard | stopped before success | of those not over in 3 "
        "questions | detected | questions to detection, median (largest) |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        bare = [trace for trace in full if trace.attack == name]
        runs = [trace for trace in short if trace.attack == name]
        found = [replay(trace, Watched(spec), identities=1) for trace in runs]
        lines.append(_row(name, bare, runs, found))
        print(lines[-1], flush=True)
    lines += [
        "",
        "To the end of the recording: a history that answers silently lets the attacker go on, and "
        "every later success must be held too.",
        "",
        "| attack | runs | success without the guard | success that was not held | after the third "
        "question |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        bare = [trace for trace in full if trace.attack == name]
        found = [replay(trace, Watched(spec), identities=1) for trace in bare]
        won = sum(trace.success is not None for trace in bare)
        harmed = [outcome.harmed for outcome in found if outcome.harmed is not None]
        late = sum(place > 2 for place in harmed)
        lines.append(f"| {name} | {len(bare)} | {won} | {len(harmed)} | {late} |")
        print(lines[-1], flush=True)
    if spread:
        lines += spread_rows(names, short, spec, spread)
    lines += [
        "",
        "As DICOM that claims one study, whose evidence counts a 32nd:",
        "",
        "| attack | runs | success without the guard | success that was not held | questions to "
        "detection, median |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        bare = [trace for trace in full if trace.attack == name]
        found = [replay(t, Watched(spec), identities=1, study=7) for t in bare]
        won = sum(trace.success is not None for trace in bare)
        waits = [o.detected + 1 for o in found if o.detected is not None]
        middle = f"{statistics.median(waits):.0f}" if waits else "never"
        harmed = sum(outcome.harmed is not None for outcome in found)
        lines.append(f"| {name} | {len(bare)} | {won} | {harmed} | {middle} |")
        print(lines[-1], flush=True)
    return lines


def spread_rows(
    names: Sequence[str], short: Sequence[Trace], spec: Preprocessing, spread: int
) -> list[str]:
    """A table of runs over several senders, hidden in benign traffic."""
    lines = [
        "",
        "Spread over identities and hidden in benign traffic (all attacks together):",
        "",
        "| identities | benign queries between two questions | runs | stopped before success | "
        "questions to detection, median |",
        "|---|---|---|---|---|",
    ]
    rng = np.random.default_rng(1)
    for identities in (1, 10, 100):
        for between in (1, 10, 100, 1000):
            runs = [t for name in names for t in [t for t in short if t.attack == name][:spread]]
            if between == 1000:
                runs = runs[:: max(1, len(runs) // 16)]
            found = [
                replay(
                    Trace(t.attack, t.source, t.label, t.queries[:24], t.answers[:24]),
                    Watched(spec),
                    identities,
                    others=lambda between=between: strangers(rng, between),
                )
                for t in runs
            ]
            stopped = sum(outcome.harmed is None for outcome in found)
            waits = [o.detected + 1 for o in found if o.detected is not None]
            lines.append(
                f"| {identities} | {between} | {len(runs)} | {share(stopped, len(runs))} "
                f"| {statistics.median(waits):.0f} |"
            )
            print(lines[-1], flush=True)
    return lines


def _row(name: str, bare: Sequence[Trace], runs: Sequence[Trace], found: Sequence[Outcome]) -> str:
    without = sum(trace.success is not None for trace in bare)
    stopped = [outcome.harmed is None for outcome in found]
    longer = [
        ok
        for ok, trace in zip(stopped, runs, strict=True)
        if trace.success is None or trace.success > 2
    ]
    waits = [o.detected + 1 for o in found if o.detected is not None]
    middle = f"{statistics.median(waits):.0f} ({max(waits)})" if waits else "never"
    enough = [t for t in runs if len(t.queries) >= 12]
    seen = sum(
        o.detected is not None for o, t in zip(found, runs, strict=True) if len(t.queries) >= 12
    )
    return (
        f"| {name} | {share(without, len(bare))} | {share(sum(stopped), len(stopped))} "
        f"| {share(sum(longer), len(longer))} | {share(seen, len(enough))} | {middle} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100, help="of the short recordings")
    parser.add_argument("--short", type=int, default=60, help="questions of a short recording")
    parser.add_argument("--full-images", type=int, default=12)
    parser.add_argument("--full", type=int, default=500, help="questions of a full recording")
    parser.add_argument("--spread", type=int, default=5, help="runs an attack in traffic; 0: none")
    parser.add_argument("--attacks", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, pixels, labels = sources(arguments.model, arguments.data, arguments.images)
    spec = model.spec.preprocessing
    print(f"{len(pixels)} images of {tuple(pixels.shape[1:])}", flush=True)
    few = arguments.full_images
    short = record(model, pixels, labels, arguments.attacks, arguments.short)
    full = record(model, pixels[:few], labels[:few], arguments.attacks, arguments.full)
    lines = replay_rows(arguments.attacks, short, full, spec, arguments.spread)
    title = Path(arguments.model).name
    publish(
        [
            f"## {title}",
            "",
            f"`{command_of('query_attacks')}`; images "
            f"of {tuple(pixels.shape[1:])}, one a patient, that the model diagnoses right; "
            f"{len(pixels)} of them for {arguments.short} questions, {arguments.full_images} for "
            f"{arguments.full}; {describe()}.",
            "",
            *lines,
            "",
        ],
        arguments.page,
    )


if __name__ == "__main__":
    main()
