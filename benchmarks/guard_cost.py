"""What the guard costs: the fused graph over the bare model, in the same engine.

    python -m benchmarks.guard_cost [--bundle B | --models A,B] [--out docs/results/guard_cost.md]

With ``--models`` (the zoo's names, resnet18, resnet50) the guards are stand-ins of the default
detectors and sizes (``benchmarks.stand_in``), which cost what fitted ones cost. Graphs of one
model: bare, the first stage, the second on one image that it looks at, and, of stand-ins, the
guard that looks at every image in full. Rounds are interleaved and CPU time is compared, so that a
busy machine slows all alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.resnets import DEPTHS
from benchmarks.stand_in import guarded, resnet
from detectors.bundle import Bundle
from detectors.draws import draw
from detectors.guard import IN_FULL
from detectors.second_graph import second_graph
from detectors.second_stage import OUTPUTS, SECOND_GRAPH, feeds
from models.diagnostic import DiagnosticModel
from models.engine import READING
from models.export import export_bare
from models.load import load_model
from models.machine import describe
from models.onnx_engine import OnnxEngine, OnnxGraph
from models.spec import ModelSpec

GRAPHS = ("bare model", "first stage", "in full (--second-stage 0)")
SECOND = "second stage, of an image looked at"
VIEWS = 3


def milliseconds(run: Callable[[], object]) -> float:
    """CPU of one run."""
    started = time.process_time()
    run()
    return 1000 * (time.process_time() - started)


Second = tuple[bytes, int]
"""A second stage's graph and how many views it takes."""


def looking(second: Second, spec: ModelSpec, threads: int) -> Callable[[], object]:
    """A run of the second stage on one image, its draws included."""
    graph, views = second
    stage = OnnxGraph(graph, threads=threads)
    preprocessing = spec.preprocessing
    size, channels = preprocessing.size, preprocessing.channels
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, channels), dtype=np.uint8)
    return lambda: stage.run(feeds(image, draw(rng, views, channels, size)), OUTPUTS)


def of_bundle(bundle: Bundle) -> tuple[DiagnosticModel, dict[str, bytes], Second | None]:
    """A bundle's model, the graphs, and its second stage."""
    model = load_model(bundle.manifest.model.name)
    assert isinstance(model, DiagnosticModel)
    bare, first, full = GRAPHS
    entry = bundle.manifest.second_stage
    if entry is None:
        return model, {bare: export_bare(model), full: bundle.graph}, None
    graphs = {bare: export_bare(model), first: bundle.graph}
    return model, graphs, (bundle.read(SECOND_GRAPH), entry.views)


def stand_ins(name: str) -> tuple[DiagnosticModel, dict[str, bytes], Second | None]:
    """The same under stand-in guards."""
    model = resnet(name) if name in DEPTHS else load_model(name)
    assert isinstance(model, DiagnosticModel)
    made = export_bare(model), guarded(model), guarded(model, IN_FULL)
    second: bytes = second_graph(model).SerializeToString()
    return model, dict(zip(GRAPHS, made, strict=True)), (second, VIEWS)


def rows(
    spec: ModelSpec, graphs: dict[str, bytes], second: Second | None, rounds: int, threads: int
) -> list[str]:
    """The table's rows of one model."""
    preprocessing = spec.preprocessing
    engines = {graph: OnnxEngine(content, threads=threads) for graph, content in graphs.items()}
    (height, width), channels = preprocessing.size, preprocessing.channels
    rng = np.random.default_rng(0)
    lines = []
    for batch in (1, 32):
        images = rng.integers(0, 256, (batch, height, width, channels), dtype=np.uint8)
        times: dict[str, list[float]] = {graph: [] for graph in engines}
        look = None
        if second is not None and batch == 1:
            look = looking(second, spec, threads)
            times[SECOND] = []
        for i in range(max(rounds // batch, 5) + 1):
            for graph, engine in engines.items():
                wanted = READING if graph != GRAPHS[0] else READING[:2]
                spent = milliseconds(partial(engine.outputs, images, wanted))
                if i >= 1:
                    times[graph].append(spent)
            if look is not None:
                spent = milliseconds(look)
                if i >= 1:
                    times[SECOND].append(spent)
        for graph, spent_all in times.items():
            ratios = [a / b for a, b in zip(spent_all, times[GRAPHS[0]], strict=True)]
            lines.append(
                f"| {spec.name}, {height} x {width} | {batch} | {graph} "
                f"| {statistics.median(spent_all):.2f} | {statistics.median(ratios):.3f} |"
            )
    return lines


def main() -> None:
    """Measure and print; write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/phantom/bundle"))
    parser.add_argument("--models", help="of stand-in guards, by comma, instead of a bundle")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "| model | batch | graph | median ms of CPU | over the bare model |",
        "|---|---|---|---|---|",
    ]
    if arguments.models:
        what = f"--models {arguments.models}"
        found = [stand_ins(name) for name in arguments.models.split(",")]
    else:
        what = f"--bundle {arguments.bundle}"
        found = [of_bundle(Bundle.open(arguments.bundle))]
    for model, graphs, second in found:
        lines += rows(model.spec, graphs, second, arguments.rounds, arguments.threads)
    page = "\n".join(
        [
            "# What the guard costs",
            "",
            f"`python -m benchmarks.guard_cost {what} --rounds {arguments.rounds}`; ONNX Runtime "
            f"on the CPU, {arguments.threads} thread; {describe()}. CPU time of the process, "
            "which a busy machine disturbs less than time on the clock; ratios are of neighbouring "
            f"runs. Load average at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.",
            "",
            *lines,
            "",
            "Target for the first stage: 1.05.",
            "",
        ]
    )
    print(page)
    if arguments.out:
        arguments.out.write_text(page)


if __name__ == "__main__":
    main()
