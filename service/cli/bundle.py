"""``lazaret bundle inspect``, ``verify``, ``sign`` and, beside it, ``canaries``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from detectors.bundle import Bundle
from detectors.calibrate import images_needed, images_needed_on_average
from detectors.canaries import canaries_of
from detectors.signature import private_key
from detectors.signature import sign as write_signature
from service.cli import bundle_canaries, bundle_export
from service.cli.sentence import told
from service.guard import bundle_engine, prove, trusted_keys
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
        f"{name} needs {needed(getattr(alphas, name))} images {where}"
        for name, needed, where in (
            ("flag", images_needed, "per class"),
            ("reject", images_needed, "per class"),
            ("quality", images_needed_on_average, "in all"),
        )
        if any(getattr(cell, name) is None for cell in manifest.levels)
    ]
    if lacking:
        console.print(f"-: too few calibration images; {'; '.join(lacking)}")


@app.command(
    epilog="Example: lazaret bundle verify bundles/chest-xray && systemctl restart lazaret"
)
def verify(
    folder: Folder,
    keys: Annotated[
        Path | None, typer.Option(help="Public keys, PEM, one of which signed it.")
    ] = None,
) -> None:
    """Check every hash, load the graph and run it.

    A bundle that `lazaret fit` wrote holds a fixture: this machine must read it as it was read
    when the guard was fitted. Its canaries must get their verdicts. With keys, by the option or the
    setting bundle_keys, one of them must have signed it.

    Exit status: 0 the bundle can be served, 2 it must not be.
    """
    with told():
        settings = Settings.load(bundle_keys=keys)
        trusted = trusted_keys(settings)
        bundle = Bundle.open(folder, trusted)
        prove(bundle, bundle_engine(bundle, settings))
    signed = ", signed" if trusted else ""
    Console().print(f"{folder}: good{signed}, {bundle.digest}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: lazaret bundle sign bundles/chest-xray --key release.pem")
def sign(
    folder: Folder,
    key: Annotated[Path, typer.Option(help="Ed25519 private key, PEM.")],
) -> None:
    """Sign a bundle: write manifest.sig into its folder.

    Make the keys with `openssl genpkey -algorithm ed25519 -out release.pem` and `openssl pkey -in
    release.pem -pubout -out release.pub`. A service with the setting bundle_keys serves only
    bundles that one of those keys signed. The digest of a bundle does not change by it.

    Exit status: 0 signed, 2 the bundle is damaged or the key is none.
    """
    with told():
        signer = private_key(key)
        bundle = Bundle.open(folder)
        write_signature(folder, signer)
    Console().print(f"{folder}: signed, {bundle.digest}", highlight=False, soft_wrap=True)


def _level(level: float | None) -> str:
    return "-" if level is None else f"{level:.2g}"
