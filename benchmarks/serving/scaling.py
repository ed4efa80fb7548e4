"""How serving scales over workers and batch limits, and what holds it back.

    python -m benchmarks.serving.scaling [--out docs/results/serving_scaling.md]

The small model of ``benchmarks.serving`` under the guard that looks at all in full, where the
server shows, and ResNet-18 under a first stage, where the model does. The page comes with a figure
beside it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.page import command_of, publish
from benchmarks.serving.__main__ import picture, reduced
from benchmarks.serving.contestants import lazaret
from benchmarks.serving.measure import (
    TICKS,
    Load,
    cpu_seconds,
    load,
    started,
    ticks,
    tree,
    write_script,
)
from benchmarks.stand_in import resnet, write_stand_in
from models.machine import describe

PORT = 18_600
AT_ONCE = 32
BATCHES = (1, 4, 16, 32)
BUSY = 0.9
"""Share of what there is from which a part counts as what holds the rest back."""
SMALL, LARGE = "phantom, in full", "ResNet-18, first stage"


@dataclass(frozen=True)
class Point:
    """One load."""

    load: Load
    batch: float
    """Mean images in the run that judged an image."""
    loop: float
    """Share of a core that the busiest worker's event loop took."""
    cores: float
    """Cores that all processes took, the client's too."""

    def bottleneck(self, cores: int) -> str:
        """What has nothing left to give."""
        if self.cores >= BUSY * cores:
            return "the cores"
        return "one event loop" if self.loop >= BUSY else "waiting: batches, disk"


def event_loops(pid: int) -> dict[int, float]:
    """CPU seconds of the main thread of every process of a tree."""
    return {one: ticks(Path(f"/proc/{one}/task/{one}")) / TICKS for one in tree(pid)}


def counted(port: int) -> tuple[float, float]:
    """Sum and count of ``lazaret_batch_images`` over all workers."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        page = response.read().decode()
    found = [
        sum(float(v) for v in re.findall(rf"^lazaret_batch_images_{part}{{.*}} (\S+)$", page, re.M))
        for part in ("sum", "count")
    ]
    return found[0], found[1]


def measure(
    bundle: Path,
    workers: int,
    batch: int,
    image: bytes,
    work: Path,
    seconds: float,
    *,
    at_once: int = AT_ONCE,
    clients: int = 1,
    environment: Mapping[str, str] | None = None,
) -> Point:
    """One load of one setting: ``at_once`` requests in flight from so many threads."""
    place = work / f"{bundle.name}-{workers}-{batch}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    one = lazaret(bundle, PORT, workers, place)
    settings = {"LAZARET_BATCH_IMAGES": str(batch), **(environment or {})}
    one = replace(one, environment={**one.environment, **settings})
    body = one.body(image)
    script = write_script(place / "post.lua", body)
    url = f"http://127.0.0.1:{PORT}{one.path}"
    with started(one, PORT, body, {"OMP_NUM_THREADS": "1"}, place / "log") as (pid, _):
        load(url, script, pid, at_once, 2.0, clients)  # warm
        images, loops, client = counted(PORT), event_loops(pid), os.times()
        server = cpu_seconds(pid)
        found = load(url, script, pid, at_once, seconds, clients)
        spent = cpu_seconds(pid) - server
        after = os.times()
        wrk = after.children_user + after.children_system
        wrk -= client.children_user + client.children_system
        busiest = max(cpu - loops.get(p, cpu) for p, cpu in event_loops(pid).items())
        total = counted(PORT)
    if found.failures:
        raise RuntimeError(f"{found.failures} failures, see {place}/log")
    return Point(
        found,
        (total[0] - images[0]) / max(total[1] - images[1], 1),
        busiest / seconds,
        (spent + wrk) / seconds,
    )


def main() -> None:
    """Measure, print, and write the page if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--workers", help="by comma; default: every number up to the cores")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)), help="by comma")
    parser.add_argument("--work", type=Path, default=Path("runs/serving_scaling"))
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    work = chosen.work.absolute()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    image, cores = picture(), os.cpu_count() or 1
    counts = numbers(chosen.workers) if chosen.workers else range(1, cores + 1)
    batches = numbers(chosen.batches)
    bundles = {SMALL: reduced(work / "small"), LARGE: work / "large"}
    write_stand_in(bundles[LARGE], resnet("resnet18"))
    found: dict[tuple[str, int, int], list[Point]] = defaultdict(list)
    busy = [os.getloadavg()[0]]
    for _ in range(chosen.rounds):
        for name, bundle in bundles.items():
            for workers in counts:
                for batch in batches:
                    point = measure(bundle, workers, batch, image, work, chosen.seconds)
                    found[name, workers, batch].append(point)
                    print(name, workers, batch, point, flush=True)
            busy.append(os.getloadavg()[0])
    lines = [
        "# Serving over workers and batch limits",
        "",
        f"`{command_of('serving.scaling')}`; {describe()}. Load average during the run: "
        f"{min(busy):.1f} to {max(busy):.1f} on {cores} cores.",
        "",
        f"{AT_ONCE} requests at once by wrk on the same cores; the JPEG of "
        "[serving.md](serving.md); one thread a run of the engine, and as many runs at once in a "
        "worker as its cores have room for. Medians of "
        f"{chosen.rounds} rounds. *Event loop*: the share of a core that the busiest one took. "
        "*Cores*: what server and client took together. What is at 90 % of what there is holds the "
        "rest back.",
        "",
        "| model | workers | batch limit | mean batch | requests/s | p50 ms | p99 ms "
        "| CPU ms a request | event loop | cores | bottleneck |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(
            row(name, workers, batch, points, cores)
            for (name, workers, batch), points in found.items()
        ),
        "",
        *([f"![Requests a second over the batch limit]({chosen.out.stem}.png)", ""]
          if chosen.out else []),
    ]  # fmt: skip
    publish(lines, chosen.out)
    if chosen.out:
        draw(found, counts, batches).savefig(chosen.out.with_suffix(".png"), dpi=110)


def row(name: str, workers: int, batch: int, points: list[Point], cores: int) -> str:
    """A line of the table."""
    point = sorted(points, key=lambda p: p.load.per_second)[len(points) // 2]

    def middle(read: str) -> float:
        return statistics.median(getattr(p.load, read) for p in points)

    return (
        f"| {name} | {workers} | {batch} | {point.batch:.1f} | {middle('per_second'):.1f} "
        f"| {middle('p50_ms'):.0f} | {middle('p99_ms'):.0f} | {middle('cpu_ms'):.1f} "
        f"| {point.loop:.2f} | {point.cores:.2f} | {point.bottleneck(cores)} |"
    )


def numbers(words: str) -> list[int]:
    """Whole numbers by comma."""
    return [int(word) for word in words.split(",")]


def draw(
    found: dict[tuple[str, int, int], list[Point]], counts: Sequence[int], batches: Sequence[int]
) -> Figure:
    """Requests a second over the batch limit, a curve for each number of workers."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), (SMALL, LARGE), strict=True):
        for workers in counts:
            rates = [
                statistics.median(p.load.per_second for p in found[name, workers, batch])
                for batch in batches
            ]
            axes.plot(batches, rates, "o-", label=f"{workers} worker{'s' * (workers > 1)}")
        axes.set(
            title=name, xscale="log", xticks=batches, xlabel="batch limit", ylabel="requests/s"
        )
        axes.set_xticklabels(batches)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
