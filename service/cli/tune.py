"""``lazaret tune``: measure this machine and write the settings that follow."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from detectors.bundle import Bundle
from models.engine import Engine
from service.cli.sentence import refuse, told
from service.settings import Settings

EXAMPLE = "Example: lazaret tune --bundle bundles/chest-xray --out lazaret.toml"
BATCHES = (1, 2, 4, 8, 16, 32)
ENOUGH = 0.95
"""A smaller batch, or fewer threads, that reach this share of the best are preferred: they cost
latency, or cores, for nothing."""
OVERHEAD_MS = 1.5
"""CPU of a request beside decoding and the engine: about what the event loop and the record
take."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Milliseconds of one run of the engine by threads and batch size."""

    milliseconds: dict[tuple[int, int], float]

    def threads(self) -> int:
        """The fewest that answer a single image nearly as fast as the best number."""
        alone = {t: ms for (t, batch), ms in self.milliseconds.items() if batch == 1}
        return min(t for t, ms in alone.items() if min(alone.values()) >= ENOUGH * ms)

    def batch(self, threads: int) -> int:
        """The smallest batch with nearly the best throughput."""
        rates = {b: b / ms for (t, b), ms in self.milliseconds.items() if t == threads}
        return min(b for b, rate in rates.items() if rate >= ENOUGH * max(rates.values()))


def workers(cores: int, engine_ms: float, decode_ms: float) -> int:
    """One while the engine takes most of a request, since its threads use all cores; else one a
    core, since a process runs its Python on one core only."""
    return cores if decode_ms + OVERHEAD_MS > engine_ms else 1


def tune(
    bundle: Annotated[Path, typer.Option(help="The bundle folder.")],
    image: Annotated[
        Path | None, typer.Option(help="A typical file, so that decoding is measured as well.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the settings here, as TOML.")] = None,
    seconds: Annotated[float, typer.Option(help="How long to measure each case.", min=0.01)] = 0.5,
) -> None:
    """Measure the engine on this machine: threads, batch sizes and, with --image, decoding.

    Prints the measurements and the settings that follow from them by stated rules
    (docs/serving.md). Measure while nothing else runs. Exit status: 0 measured, 2 it cannot be.
    """
    from models.onnx_engine import OnnxEngine
    from service.cores import cores

    with told():
        opened = Bundle.open(bundle)
        height, width = opened.manifest.model.preprocessing.size
        pixels = np.zeros((height, width, 1), np.uint8)
        decode_ms = 0.0
        if image is not None:
            pixels, decode_ms = _decoded(opened, image, seconds)
        available = cores()
        counts = sorted({1, *(2**i for i in range(1, available.bit_length())), available})
        found = Measured(
            {
                (threads, batch): milliseconds(engine, pixels, batch, seconds)
                for threads in counts
                if threads <= available
                for engine in [OnnxEngine(opened.graph, threads=threads)]
                for batch in BATCHES
            }
        )
    console, table = Console(), Table(title="milliseconds of one run")
    table.add_column("threads", justify="right")
    for batch in BATCHES:
        table.add_column(f"batch {batch}", justify="right")
    for threads in sorted({t for t, _ in found.milliseconds}):
        times = (found.milliseconds[threads, batch] for batch in BATCHES)
        table.add_row(str(threads), *(f"{ms:.2f}" for ms in times))
    console.print(table)
    threads = found.threads()
    count = workers(available, found.milliseconds[threads, 1], decode_ms)
    chosen = {"workers": count, "batch_images": found.batch(threads)}
    if count == 1:
        chosen["threads"] = threads
    lines = "".join(f"{name} = {value}\n" for name, value in chosen.items())
    if image is not None:
        console.print(f"decoding: {decode_ms:.2f} ms")
    console.print(lines, end="")
    if out is not None:
        head = f"# Measured by lazaret tune on {available} cores for {opened.digest}\n"
        out.write_text(head + lines)
        with told():  # what was written must be settings
            Settings.load(**chosen)


def milliseconds(engine: Engine, pixels: np.ndarray, batch: int, seconds: float) -> float:
    """Median time of a run on ``batch`` copies of ``uint8[H, W, C]``."""
    images = np.repeat(pixels[None], batch, axis=0)
    engine.run(images)
    spent: list[float] = []
    until = time.perf_counter() + seconds
    while len(spent) < 3 or time.perf_counter() < until:
        started = time.perf_counter()
        engine.run(images)
        spent.append(1000 * (time.perf_counter() - started))
    return statistics.median(spent)


def _decoded(bundle: Bundle, image: Path, seconds: float) -> tuple[np.ndarray, float]:
    from models.imaging import ImageProblem
    from models.imaging.decode import decode

    rendering = bundle.manifest.model.preprocessing.rendering
    spent: list[float] = []
    try:
        data = image.read_bytes()
        pixels = decode(data, None, policy=rendering).pixels
        until = time.perf_counter() + seconds
        while len(spent) < 3 or time.perf_counter() < until:
            started = time.perf_counter()
            decode(data, None, policy=rendering)
            spent.append(1000 * (time.perf_counter() - started))
    except OSError as error:
        refuse(f"{image}: {error.strerror or error}")
    except ImageProblem as problem:
        refuse(f"{image}: {problem.detail}")
    return pixels, statistics.median(spent)
