"""Lazaret beside other model servers: a small model, JPEG bodies, interleaved rounds.

    python -m benchmarks.serving [--peers runs/peers] [--out docs/results/serving.md]

All serve the zoo's phantom model and decode at a fraction of the size. Lazaret also guards, decides
and commits a durable record before it answers; the others do none of that. The rounds interleave,
so that a busy machine slows all alike.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.serving.contestants import Contestant, lazaret, peers
from benchmarks.serving.measure import (
    Load,
    check_accepted,
    cpu_seconds,
    load,
    looped,
    memory_mb,
    started,
    write_script,
)
from benchmarks.stand_in import write_stand_in
from detectors.bundle import GRAPH, Bundle, write_manifest
from models import zoo
from models.diagnostic import DiagnosticModel
from models.imaging.rendering import RenderingPolicy
from models.load import load_model
from models.machine import describe
from models.phantom import radiograph

PORT = 18_100
CONCURRENCY = (1, 8, 32)
PATIENT = 900_000
"""Not one of those that the bundle was made from."""


def picture() -> bytes:
    """A colour JPEG of 1024 x 1024, 4:2:0, of about 130 KB, which the guard accepts: a phantom
    whose pixels are blocks of 8 x 8 with a grain that is gone where the file is decoded at an
    eighth."""
    phantom = radiograph(PATIENT, 0, opacities=False)
    grain = np.random.default_rng(0).normal(0, 5.5, (128, 8, 128, 8, 3))
    grain -= grain.mean(axis=(1, 3), keepdims=True)
    pixels = np.kron(phantom, np.ones((8, 8, 1))) + grain.reshape(1024, 1024, 3)
    file = io.BytesIO()
    whole = np.clip(pixels, 0, 255).astype(np.uint8)
    Image.fromarray(whole).save(file, "JPEG", quality=85, subsampling="4:2:0")
    return file.getvalue()


def reduced(folder: Path) -> Path:
    """The phantom's bundle, declared to decode JPEG files at a fraction of their size, as the peers
    do. It was not fitted so: its verdicts are not judged here, only what they cost, and the picture
    is one that it accepts, as it does nearly all that a hospital sends."""
    return _reduced(Path(shutil.copytree(zoo.ZOO / "phantom" / "bundle", folder)))


def first_stage(folder: Path) -> Path:
    """The same with a stand-in of the first of two stages (``benchmarks.stand_in``)."""
    model = load_model("phantom")
    assert isinstance(model, DiagnosticModel)
    return _reduced(write_stand_in(folder, model))


def _reduced(folder: Path) -> Path:
    manifest = Bundle.open(folder).manifest
    size = manifest.model.preprocessing.size
    shown = manifest.model.preprocessing.model_copy(
        update={"rendering": RenderingPolicy(jpeg=size)}
    )
    model = manifest.model.model_copy(update={"preprocessing": shown})
    write_manifest(folder, manifest.model_copy(update={"model": model}))
    return folder


def import_seconds() -> float:
    """Importing ``service.app`` in a fresh interpreter: CPU, the least of five."""
    code = "import time; import service.app; print(time.process_time())"
    command = [sys.executable, "-c", code]
    return min(float(subprocess.check_output(command, text=True)) for _ in range(5))


def main() -> None:
    """Measure, print, and write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, default=Path("runs/peers"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--only", help="part of a contestant's name")
    parser.add_argument("--work", type=Path, default=Path("runs/serving"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    image, cores = picture(), os.cpu_count() or 1
    guards = {"in full": reduced(work / "full"), "first stage": first_stage(work / "first")}
    model = Bundle.open(guards["in full"]).manifest.model
    side = model.preprocessing.size[0]
    bare, scan = zoo.ZOO / "phantom" / "model.onnx", work / "scan.jpg"
    scan.write_bytes(image)
    marked = "decoding, the query history's mark and the first stage"
    floors = {
        "decoding and the bare model": (bare, "decode"),
        "the same, eight a run": (bare, "decode", "together"),
        marked: (guards["first stage"] / GRAPH, "decode", "mark"),
        f"{marked}, eight a run": (guards["first stage"] / GRAPH, "decode", "mark", "together"),
    }
    looping: dict[str, list[tuple[float, float]]] = defaultdict(list)
    environment = {
        "BENCH_MODEL": str(bare),
        "BENCH_SIDE": str(side),
        "BENCH_PORT": str(PORT),
        "BENCH_WORKERS": str(cores),
        "OMP_NUM_THREADS": "1",
    }
    everyone = [
        *(
            lazaret(bundle, PORT, workers, work, guard=guard)
            for guard, bundle in guards.items()
            for workers in sorted({1, cores})
        ),
        *peers(arguments.peers.absolute(), PORT),
    ]
    everyone = [one for one in everyone if (arguments.only or "") in one.name]
    loads: dict[tuple[str, int], list[Load]] = defaultdict(list)
    starts: dict[str, list[tuple[float, float]]] = defaultdict(list)
    memory: dict[str, list[float]] = defaultdict(list)
    failed: dict[str, str] = {}
    busy = [os.getloadavg()[0]]
    for number in range(arguments.rounds):
        for what, (graph, *also) in floors.items():
            looping[what].append(looped(graph, scan, side, arguments.seconds, *also))
        for one in everyone[number % len(everyone) :] + everyone[: number % len(everyone)]:
            if one.name in failed:
                continue
            body = one.body(image)
            script = write_script(work / "post.lua", body)
            url = f"http://127.0.0.1:{PORT}{one.path}"
            log = work / f"{one.name.split(',')[0].replace(' ', '_')}.log"
            try:
                with started(one, PORT, body, environment, log) as (pid, seconds):
                    starts[one.name].append((seconds, cpu_seconds(pid)))
                    if one.guarded:
                        check_accepted(url, body)
                    load(url, script, pid, 8, 1.0)  # warm
                    for concurrency in CONCURRENCY:
                        found = load(url, script, pid, concurrency, arguments.seconds)
                        loads[one.name, concurrency].append(found)
                        print(one.name, concurrency, found, flush=True)
                    memory[one.name].append(memory_mb(pid))
            except (RuntimeError, subprocess.CalledProcessError) as error:
                failed[one.name] = type(error).__name__
                print(one.name, error, flush=True)
            busy.append(os.getloadavg()[0])
            time.sleep(0.5)
    page = write(arguments, everyone, loads, starts, memory, failed, busy, len(image), looping)
    print(page)
    stored = {f"{name} c={c}": [vars(one) for one in found] for (name, c), found in loads.items()}
    (work / "loads.json").write_text(json.dumps(stored))
    if arguments.out:
        arguments.out.write_text(page)


def write(
    arguments: argparse.Namespace,
    everyone: list[Contestant],
    loads: dict[tuple[str, int], list[Load]],
    starts: dict[str, list[tuple[float, float]]],
    memory: dict[str, list[float]],
    failed: dict[str, str],
    busy: list[float],
    size: int,
    looping: dict[str, list[tuple[float, float]]],
) -> str:
    """The page."""

    def cells(name: str, read: str, form: str) -> str:
        return " / ".join(
            format(statistics.median(getattr(f, read) for f in loads[name, c]), form)
            for c in CONCURRENCY
        )

    lines = [
        "# Serving beside other servers",
        "",
        f"`python -m benchmarks.serving --rounds {arguments.rounds} "
        f"--seconds {arguments.seconds:g}` (`make bench-serving`); {describe()}. "
        "Load average of the machine during the run: "
        f"{min(busy):.1f} to {max(busy):.1f} on {os.cpu_count()} cores, of which this benchmark "
        "itself makes about two to four.",
        "",
        f"The zoo's phantom model (128 x 128); bodies are one colour JPEG, 1024 x 1024, {size:,} "
        "bytes, decoded at an eighth of its size by all. wrk keeps 1, 8 and 32 requests in flight. "
        "Lazaret answers with a verdict and a durable SQLite record and accepts the image: in "
        "full, by the guard that `lazaret fit` makes by default, which runs the model twice and "
        "once backwards, or by the first of two stages (a stand-in), as for nine clean images "
        "of ten of `--second-stage 3`; the others answer with the bare model's "
        "logits and record nothing. Engines have one thread each. Medians over interleaved rounds. "
        "CPU a request is the number to trust; rates and p99 suffer from whatever else the "
        "machine does.",
        "",
        "| server | CPU ms a request, c = 1 / 8 / 32 | requests/s | p99 ms | ready s, CPU s "
        "| memory MB |",
        "|---|---|---|---|---|---|",
    ]
    done = [one for one in everyone if one.name not in failed]
    for one in sorted(
        done, key=lambda one: statistics.median(f.cpu_ms for f in loads[one.name, 8])
    ):
        lines.append(
            f"| {one.name} | {cells(one.name, 'cpu_ms', '.1f')} "
            f"| {cells(one.name, 'per_second', '.0f')} | {cells(one.name, 'p99_ms', '.0f')} "
            f"| {statistics.median(s for s, _ in starts[one.name]):.1f}, "
            f"{statistics.median(cpu for _, cpu in starts[one.name]):.1f} "
            f"| {statistics.median(memory[one.name]):.0f} |"
        )
    lines += [
        "",
        "In a loop on every core, with nothing served, what a server that does the same is above: "
        + "; ".join(
            f"{what} {statistics.median(cpu for _, cpu in found):.1f} ms of CPU an image, "
            f"{statistics.median(rate for rate, _ in found):.0f} images/s"
            for what, found in looping.items()
        )
        + ".",
    ]
    wrong = sum(found.failures for all_ in loads.values() for found in all_)
    lines += [
        "",
        f"Answers other than 200 in all loads: {wrong}. `ready s, CPU s`: from start to the "
        "first answered request, on the clock and of all cores together. Memory is proportional "
        "set size after the loads, all processes together. Import of `service.app`: "
        f"{import_seconds():.2f} s of CPU.",
        "",
    ]
    if failed:
        lines += [f"Did not run here: {', '.join(failed)}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
