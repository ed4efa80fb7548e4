"""What the guard costs: the fused graph over the bare model, in the same engine.

    python -m benchmarks.guard_cost [--bundle B | --models A,B] [--out docs/results/guard_cost.md]

With ``--models`` (the zoo's names, resnet18, resnet50) the guards are stand-ins of the default
detectors and sizes (``benchmarks.stand_in``), which cost what fitted ones cost. Graphs of one
model: bare, guarded by the default detectors that run the network neither again nor backwards,
guarded by all of them, and, of stand-ins, the first stage of two. Rounds are interleaved and CPU
time is compared, so that a busy machine slows all alike. The guard in one pass is the bundle's own,
less what needs more than one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load

from benchmarks.resnets import DEPTHS
from benchmarks.stand_in import ONE_PASS, guarded, resnet
from detectors.bundle import Bundle
from detectors.feature_graph import feature_graph
from detectors.fit import FITTED_ON, fit_guard
from detectors.grain import Grain
from detectors.guard import TRIAGE, fuse
from detectors.measured_split import MeasuredSplit
from models.diagnostic import DiagnosticModel
from models.engine import READING
from models.export import export_bare
from models.load import load_model
from models.machine import describe
from models.onnx_engine import OnnxEngine
from models.spec import Preprocessing

GRAPHS = ("bare model", "detectors in one pass", "all default detectors")
FIRST_STAGE = "first stage of two"


def always_on(bundle: Bundle, model: DiagnosticModel) -> bytes:
    """The bundle's guard on the plain feature graph: no second view, no gradient, no
    networks beside."""
    beside = {  # what the plain feature graph lacks
        "agreement", "witness", "residual", "alignment", "synthetic_alignment",
    }  # fmt: skip
    names = [d.name for d in bundle.manifest.detectors if d.name not in beside]
    arrays = load(bundle.read(FITTED_ON))
    guard = fit_guard(
        MeasuredSplit.from_arrays(arrays, "reference"),
        MeasuredSplit.from_arrays(arrays, "fusion"),
        bundle.manifest.tap_widths,
        len(bundle.manifest.model.classes),
        names,
    )
    features = feature_graph(model, squeezed=False, grain=Grain.name in names)
    return fuse(features, guard).SerializeToString()


def milliseconds(engine: OnnxEngine, images: np.ndarray, outputs: tuple[str, ...]) -> float:
    """CPU of one run."""
    started = time.process_time()
    engine.outputs(images, outputs)
    return 1000 * (time.process_time() - started)


def graphs_of(bundle: Bundle) -> dict[str, bytes]:
    """Of a bundle's model: bare, guarded in one pass, guarded in full."""
    model = load_model(bundle.manifest.model.name)
    assert isinstance(model, DiagnosticModel)
    return dict(
        zip(GRAPHS, (export_bare(model), always_on(bundle, model), bundle.graph), strict=True)
    )


def stand_ins(name: str) -> tuple[DiagnosticModel, dict[str, bytes]]:
    """The same under stand-in guards, and the model."""
    model = resnet(name) if name in DEPTHS else load_model(name)
    assert isinstance(model, DiagnosticModel)
    made = (export_bare(model), guarded(model, ONE_PASS), guarded(model))
    return model, {
        **dict(zip(GRAPHS, made, strict=True)), FIRST_STAGE: guarded(model, TRIAGE)
    }  # fmt: skip


def rows(
    name: str, graphs: dict[str, bytes], preprocessing: Preprocessing, rounds: int, threads: int
) -> list[str]:
    """The table's rows of one model."""
    engines = {graph: OnnxEngine(content, threads=threads) for graph, content in graphs.items()}
    (height, width), channels = preprocessing.size, preprocessing.channels
    rng = np.random.default_rng(0)
    lines = []
    for batch in (1, 32):
        images = rng.integers(0, 256, (batch, height, width, channels), dtype=np.uint8)
        times: dict[str, list[float]] = {graph: [] for graph in engines}
        for i in range(max(rounds // batch, 5) + 1):
            for graph, engine in engines.items():
                wanted = READING if graph != GRAPHS[0] else READING[:2]
                spent = milliseconds(engine, images, wanted)
                if i >= 1:
                    times[graph].append(spent)
        for graph, spent_all in times.items():
            ratios = [a / b for a, b in zip(spent_all, times[GRAPHS[0]], strict=True)]
            lines.append(
                f"| {name}, {height} x {width} | {batch} | {graph} "
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
        for name in arguments.models.split(","):
            model, graphs = stand_ins(name)
            lines += rows(
                name, graphs, model.spec.preprocessing, arguments.rounds, arguments.threads
            )
    else:
        what = f"--bundle {arguments.bundle}"
        bundle = Bundle.open(arguments.bundle)
        lines += rows(
            bundle.manifest.model.name, graphs_of(bundle), bundle.manifest.model.preprocessing,
            arguments.rounds, arguments.threads,
        )  # fmt: skip
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
            "Target for what runs in one pass: 1.05.",
            "",
        ]
    )
    print(page)
    if arguments.out:
        arguments.out.write_text(page)


if __name__ == "__main__":
    main()
