"""The guard and the service on a GPU: what detectors cost there, and whether it is kept full.

    python -m benchmarks.serving.gpu [--models chest-xray,resnet18,resnet50] [--work W --prepare]
        [--out docs/results/serving_gpu.md]

First the graphs alone: bare, the first stage and in full, on ONNX Runtime's CUDA provider and
on torch with CUDA graphs, copies to and from the device included. Then the whole service over
numbers of workers, each with an engine of its own on the one GPU, beside what the engine alone does
with batches of the same graph. Models are untrained and guards stand-ins (``benchmarks.stand_in``),
but for the zoo's chest X-ray network; what ``--prepare`` has made of them in ``--work``, on any
machine, is not made again. Needs torch with CUDA, onnxruntime-gpu and wrk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from benchmarks.guard_cost import GRAPHS
from benchmarks.page import command_of, publish
from benchmarks.resnets import DEPTHS
from benchmarks.serving.__main__ import picture
from benchmarks.serving.scaling import measure, numbers
from benchmarks.stand_in import resnet, write_stand_in
from detectors.bundle import GRAPH, Bundle
from detectors.guard import IN_FULL, TRIAGE
from models.diagnostic import DiagnosticModel
from models.engine import READING, Batch, Floats
from models.export import export_bare
from models.imaging.rendering import RenderingPolicy
from models.load import load_model
from models.machine import describe
from models.onnx_engine import OnnxEngine
from models.torch_engine import TorchEngine

FULL = 64
"""Images of a batch that fills the GPU."""
BATCHES = (1, FULL)
SIDE = 256
"""Rows and columns of the benchmark's JPEG at a quarter of its size."""
BARE = "bare.onnx"
GUARDS = {GRAPHS[1]: TRIAGE, GRAPHS[2]: IN_FULL}


class Runs(Protocol):
    """What both engines are asked."""

    def outputs(self, images: Batch, names: Sequence[str]) -> tuple[Floats, ...]:
        """The named outputs."""
        ...


ENGINES: dict[str, Callable[[Path], Runs]] = {
    "ONNX Runtime, CUDA": lambda graph: OnnxEngine(graph, provider="cuda"),
    "torch, float32": lambda graph: TorchEngine.from_onnx(graph, device="cuda"),
    "torch, bfloat16": lambda graph: TorchEngine.from_onnx(graph, device="cuda", dtype="bfloat16"),
}
SERVED = "ONNX Runtime, CUDA"


def model_of(name: str) -> DiagnosticModel:
    """By name; one of the zoo's decodes JPEG at a fraction of its size, as the others do."""
    if name in DEPTHS:
        return resnet(name)
    model = load_model(name)
    assert isinstance(model, DiagnosticModel)
    reading = model.spec.preprocessing
    reading = reading.model_copy(update={"rendering": RenderingPolicy(jpeg=reading.size)})
    return DiagnosticModel(model.spec.model_copy(update={"preprocessing": reading}), model.network)


def prepare(name: str, folder: Path) -> None:
    """The bare graph and a bundle of every guard in ``folder``, which must not exist."""
    model = model_of(name)
    making = folder.with_name(f".{folder.name}")
    shutil.rmtree(making, ignore_errors=True)  # of a run that was cut off
    for guard, detectors in GUARDS.items():
        write_stand_in(making / word(guard), model, detectors)
    (making / BARE).write_bytes(export_bare(model))
    making.rename(folder)


def word(guard: str) -> str:
    """A guard's name as a folder's."""
    return guard.replace(" ", "-").replace("'", "")


def graphs_of(folder: Path) -> dict[str, Path]:
    """What ``prepare`` has made."""
    return {GRAPHS[0]: folder / BARE, **{guard: folder / word(guard) / GRAPH for guard in GUARDS}}


def cost(
    name: str, graphs: dict[str, Path], channels: int, seconds: float
) -> tuple[list[str], dict[str, float]]:
    """Rows of the first table, and images a second of each graph on the engine that serves."""
    lines, rates = [], {}
    rng = np.random.default_rng(0)
    for way, build in ENGINES.items():
        engines = {graph: build(content) for graph, content in graphs.items()}
        for batch in BATCHES:
            images = rng.integers(0, 256, (batch, SIDE, SIDE, channels), dtype=np.uint8)
            times: dict[str, list[float]] = {graph: [] for graph in graphs}
            for _ in range(5):  # kernels are chosen, graphs captured
                for graph, engine in engines.items():
                    engine.outputs(images, READING if graph != GRAPHS[0] else READING[:2])
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                for graph, engine in engines.items():
                    begun = time.perf_counter()
                    engine.outputs(images, READING if graph != GRAPHS[0] else READING[:2])
                    times[graph].append(1000 * (time.perf_counter() - begun))
            middle = {graph: statistics.median(spent) for graph, spent in times.items()}
            over = [
                statistics.median(a / b for a, b in zip(times[g], times[GRAPHS[0]], strict=True))
                for g in GRAPHS[1:]
            ]
            lines.append(
                f"| {name} | {way} | {batch} | {middle[GRAPHS[0]]:.2f} "
                f"| {middle[GRAPHS[1]]:.2f} ({over[0]:.3f}) | {middle[GRAPHS[2]]:.2f} "
                f"({over[1]:.3f}) | {1000 * batch / middle[GRAPHS[1]]:.0f} |"
            )
            print(lines[-1], flush=True)
            if way == SERVED and batch == FULL:
                rates = {graph: 1000 * batch / spent for graph, spent in middle.items()}
    return lines, rates


def served(
    name: str, rates: dict[str, float], workers: Sequence[int], folder: Path, seconds: float
) -> list[str]:
    """Rows of the second table."""
    lines = []
    image, cores = picture(), os.cpu_count() or 1
    for guard in GUARDS:
        for count in workers:
            found = measure(
                folder / name / word(guard), count, FULL, image, folder, seconds,
                at_once=2 * FULL, clients=2,
                environment={"LAZARET_PROVIDER": "cuda", "LAZARET_MAX_IN_FLIGHT": "4096"},
            )  # fmt: skip
            load = found.load
            lines.append(
                f"| {name} | {guard} | {count} | {load.per_second:.0f} "
                f"| {load.per_second / rates[guard]:.2f} | {load.per_second / rates[GRAPHS[0]]:.2f}"
                f" | {load.p50_ms:.0f} | {load.p99_ms:.0f} | {load.cpu_ms:.1f} "
                f"| {found.batch:.1f} | {found.loop:.2f} | {found.cores:.1f} "
                f"| {found.bottleneck(cores)} |"
            )
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure, print, and write the page if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="chest-xray,resnet18,resnet50", help="by comma")
    parser.add_argument("--workers", default="1,2,4,8", help="by comma")
    parser.add_argument("--seconds", type=float, default=4.0, help="of every measurement")
    parser.add_argument("--work", type=Path, default=Path("runs/serving_gpu"))
    parser.add_argument("--prepare", action="store_true", help="models and guards alone")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    names, work = chosen.models.split(","), chosen.work.absolute()
    for name in names:
        if not (work / name).exists():
            prepare(name, work / name)
    if chosen.prepare:
        return
    costs: list[str] = []
    serving: list[str] = []
    for name in names:
        channels = Bundle.open(work / name / word(GRAPHS[1])).manifest.model.preprocessing.channels
        lines, rates = cost(name, graphs_of(work / name), channels, chosen.seconds)
        costs += lines
        torch.cuda.empty_cache()
        serving += served(name, rates, numbers(chosen.workers), work, chosen.seconds)
        publish(page(costs, serving), chosen.out)


def page(costs: list[str], serving: list[str]) -> list[str]:
    """What is known so far."""
    return [
        "# On a GPU",
        "",
        f"`{command_of('serving.gpu')}`; {torch.cuda.get_device_name()}; {describe()}. Load "
        f"average at the end: {os.getloadavg()[0]:.1f}.",
        "",
        f"Images of {SIDE} x {SIDE}, resized to 224 x 224 in the graph. The ResNets are untrained, "
        "all guards are stand-ins of the size that `lazaret fit` makes by default "
        "(`benchmarks/stand_in.py`).",
        "",
        "## The graphs alone",
        "",
        "Milliseconds on the clock of one run, copies to and from the device included; medians of "
        "interleaved runs, in brackets over the bare model (median of neighbouring runs). Target "
        "for the first stage: 1.05. TF32 is off. Torch replays CUDA graphs.",
        "",
        "| model | engine | batch | bare model | first stage | in full | images/s of the first |",
        "|---|---|---|---|---|---|---|",
        *costs,
        "",
        "## The service",
        "",
        f"The JPEG of [serving.md](serving.md), decoded at a quarter of its size; {2 * FULL} "
        "requests at once by wrk on the same cores, with verdict and durable SQLite record; every "
        f"worker has an engine (ONNX Runtime, CUDA) of its own on the one GPU and batches up to "
        f"{FULL}. *Over the engine's own*: images a second over what one engine in a loop does "
        f"with batches of {FULL} of the same guarded graph (target: 0.9), and of the bare model. "
        "*Event loop*: the share of a core that the busiest one took. *Cores*: what server and "
        "client took together.",
        "",
        "| model | guard | workers | images/s | over the engine's own | over the bare engine's "
        "| p50 ms | p99 ms | CPU ms a request | mean batch | event loop | cores | bottleneck |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        *serving,
        "",
    ]


if __name__ == "__main__":
    main()
