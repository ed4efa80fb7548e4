"""What the guard costs: the fused graph over the bare model, in the same engine.

    python benchmarks/guard_cost.py [--bundle B] [--out docs/results/guard_cost.md]

Three graphs of one model: bare, guarded by the always-on detectors alone, guarded with the
agreement stage too. Rounds are interleaved, so that a busy machine slows all of them alike, and
ratios are of
medians. The always-on guard is the bundle's own, less its squeezed view.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.numpy import load

from detectors.bundle import Bundle
from detectors.feature_graph import feature_graph
from detectors.fit import FITTED_ON, fit_guard
from detectors.guard import fuse
from detectors.measured_split import MeasuredSplit
from models.diagnostic import DiagnosticModel
from models.engine import READING
from models.export import export_bare
from models.load import load_model
from models.machine import describe
from models.onnx_engine import OnnxEngine


def always_on(bundle: Bundle, model: DiagnosticModel) -> bytes:
    """The bundle's guard on the plain feature graph: no second view, no networks beside."""
    beside = {"agreement", "witness", "residual"}  # what the plain feature graph lacks
    names = [d.name for d in bundle.manifest.detectors if d.name not in beside]
    arrays = load(bundle.read(FITTED_ON))
    guard = fit_guard(
        MeasuredSplit.from_arrays(arrays, "reference"),
        MeasuredSplit.from_arrays(arrays, "fusion"),
        bundle.manifest.tap_widths,
        len(bundle.manifest.model.classes),
        names,
    )
    return fuse(feature_graph(model, squeezed=False), guard).SerializeToString()


def milliseconds(engine: OnnxEngine, images: np.ndarray, outputs: tuple[str, ...]) -> float:
    """One run."""
    started = time.perf_counter()
    engine.outputs(images, outputs)
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    """Measure and print; write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/phantom/bundle"))
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    model = load_model(bundle.manifest.model.name)
    assert isinstance(model, DiagnosticModel)
    torch.set_num_threads(1)
    engines = {
        "bare model": OnnxEngine(export_bare(model)),
        "always-on detectors": OnnxEngine(always_on(bundle, model)),
        "with agreement": OnnxEngine(bundle.graph),
    }
    nodes = {
        name: len(onnx.load_from_string(g).graph.node)
        for name, g in (("bare model", export_bare(model)), ("with agreement", bundle.graph))
    }
    height, width = model.spec.preprocessing.size
    rng = np.random.default_rng(0)
    lines = ["| batch | graph | median ms | over the bare model |", "|---|---|---|---|"]
    for batch in (1, 32):
        images = rng.integers(0, 256, (batch, height, width, 1), dtype=np.uint8)
        rounds = max(arguments.rounds // batch, 15)
        times: dict[str, list[float]] = {name: [] for name in engines}
        for i in range(rounds + 2):
            for name, engine in engines.items():
                wanted = READING if name != "bare model" else READING[:2]
                spent = milliseconds(engine, images, wanted)
                if i >= 2:
                    times[name].append(spent)
        bare = statistics.median(times["bare model"])
        for name, spent_all in times.items():
            median = statistics.median(spent_all)
            lines.append(f"| {batch} | {name} | {median:.2f} | {median / bare:.3f} |")
    page = "\n".join(
        [
            "# What the guard costs",
            "",
            f"`python benchmarks/guard_cost.py --bundle {arguments.bundle}`; "
            f"{bundle.manifest.model.name}, {height} x {width}, ONNX Runtime on the CPU; "
            f"{describe()}.",
            "",
            *lines,
            "",
            f"Nodes in the graph: {nodes['bare model']} bare, {nodes['with agreement']} guarded. "
            "Target for the always-on part: 1.05.",
            "",
        ]
    )
    print(page)
    if arguments.out:
        arguments.out.write_text(page)


if __name__ == "__main__":
    main()
