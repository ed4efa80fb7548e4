"""``lazaret bundle inspect``, ``verify`` and, beside it, ``canaries``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load

from detectors.bundle import Bundle
from detectors.calibrate import images_needed
from detectors.canaries import canaries_of, check
from detectors.fixture import FIXTURE, AcceptanceProblem, check_fixture
from service.cli import bundle_canaries, bundle_export
from service.cli.sentence import refuse, told
from service.guard import onnx_engine
from service.settings import Settings

app = typer.Typer(help="Look at a bundle.", no_args_is_help=True)
app.command("export", epilog=bundle_export.EXAMPLE)(bundle_export.export)

Folder = Annotated[Path, typer.Argument(help="The bundle folder.")]

app.command("canaries", epilog=bundle_canaries.EXAMPLE)(bundle_canaries.canaries)


@app.command(epilog="Example: lazaret bundle inspect bundles/chest-xray")
def inspect(folder: Folder) -> None:
    """Show what a bundle holds: its model, detectors and what its calibration supports."""
    with told():
        bundle = Bundle.open(folder)
        canaries = canaries_of(bundle)
    manifest, console = bundle.manifest, Console()
    model = manifest.model
    facts = Table(show_header=False, box=None)
    height, width = model.preprocessing.size
    facts.add_row("model", f"{model.name}, version {model.version}")
    facts.add_row("bundle", bundle.digest)
    facts.add_row("head", f"{model.head}, {len(model.classes)} classes")
    facts.add_row("input", f"{height} x {width}, {model.preprocessing.channels} channel(s)")
    facts.add_row("detectors", ", ".join(entry.name for entry in manifest.detectors) or "none")
    facts.add_row("canaries", str(len(canaries)) if canaries else "none")
    facts.add_row("graph", f"{len(bundle.graph) / 2**20:.1f} MB")
    console.print(facts)

    alphas = manifest.alphas
    levels = Table(title="p-value at or below which a verdict is given, by predicted class")
    levels.add_column("class")
    levels.add_column("calibration images", justify="right")
    for name in ("flag", "reject", "quality"):
        levels.add_column(f"{name} (FPR {getattr(alphas, name):g})", justify="right")
    for name, cell in zip(model.classes, manifest.levels, strict=True):
        shown = (_level(cell.flag), _level(cell.reject), _level(cell.quality))
        levels.add_row(name, str(cell.images), *shown)
    console.print(levels)
    lacking = [
        f"{name} needs {images_needed(getattr(alphas, name))} images per class"
        for name in ("flag", "reject", "quality")
        if any(getattr(cell, name) is None for cell in manifest.levels)
    ]
    if lacking:
        console.print(f"-: too few calibration images; {'; '.join(lacking)}")


@app.command(
    epilog="Example: lazaret bundle verify bundles/chest-xray && systemctl restart lazaret"
)
def verify(folder: Folder) -> None:
    """Check every hash, load the graph and run it.

    A bundle that `lazaret fit` wrote holds a fixture: this machine must read it as it was read
    when the guard was fitted. Its canaries must get their verdicts.

    Exit status: 0 the bundle can be served, 2 it must not be.
    """
    with told():
        bundle = Bundle.open(folder)
        engine = onnx_engine(bundle.graph, Settings.load())
        try:
            engine.warm_up()
        except Exception as error:  # whatever a runtime throws
            refuse(f"{folder}: its graph fails on a blank image ({error}); fit the bundle again")
        if FIXTURE in bundle.manifest.files:
            try:
                check_fixture(load(bundle.read(FIXTURE)), engine, bundle.calibration)
            except AcceptanceProblem as problem:
                refuse(f"{folder}: {problem}")
        if wrong := check(canaries_of(bundle), engine, bundle):
            refuse(f"{folder}: {wrong[0]}")
    Console().print(f"{folder}: good, {bundle.digest}", highlight=False, soft_wrap=True)


def _level(level: float | None) -> str:
    return "-" if level is None else f"{level:.2g}"
