"""``lazaret doctor``."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from detectors.bundle import Bundle
from detectors.manifest_file import BundleProblem
from models.engine import EngineProblem
from models.imaging.transfer_syntax import TRANSFER_SYNTAXES, read_here
from service.auth import Auth
from service.cli.doctor_pacs import examine_pacs
from service.cli.finding import Finding
from service.guard import bundle_engine, prove, trusted_keys
from service.records import RecordsProblem, connect, migrate
from service.server import bind
from service.settings import Settings, SettingsProblem

EXAMPLE = "Example: lazaret doctor --bundle bundles/chest-xray"
ENOUGH_MEMORY = 2 * 2**30
"""Serving one bundle takes about 300 MB; a large radiograph being decoded, some hundred more."""


def doctor(
    bundle: Annotated[
        list[Path] | None, typer.Option(help="A bundle folder; repeat it for several.")
    ] = None,
) -> None:
    """Check this machine and these settings, and say what to fix.

    Exit status: 0 nothing to fix, 1 something is.
    """
    console = Console()
    table = Table(show_header=False, box=None)
    findings = list(examine(bundle))
    for finding in findings:
        mark = {True: "[green]good", False: "[red]fix", None: "[dim]none"}[finding.good]
        table.add_row(mark, finding.subject, finding.detail)
    console.print(table)
    if any(finding.good is False for finding in findings):
        raise typer.Exit(1)


def examine(bundles: list[Path] | None) -> Iterator[Finding]:
    """Look at everything that serving needs, cheapest first."""
    good = sys.version_info >= (3, 11)
    yield Finding("python", good, platform.python_version() + ("" if good else "; install 3.11+"))
    yield _runtime()
    yield _torch()
    yield _decoders()
    yield _machine()
    try:
        settings = Settings.load(bundles=bundles or None)
        keys = settings.keys()
    except SettingsProblem as problem:
        yield Finding("settings", False, str(problem))
        return
    yield _try("access", lambda: _access(settings, keys))
    yield _try("database", lambda: _database(settings.database))
    yield _try("port", lambda: _port(settings.host, settings.port))
    yield from examine_pacs(settings)
    if not settings.bundles:
        yield Finding("bundle", None, "give --bundle, or set LAZARET_BUNDLES")
    for path in settings.bundles:
        yield _try("bundle", lambda path=path: _bundle(path, settings))  # type: ignore[misc]  # mypy cannot infer such a lambda


def _try(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, True, look())
    except (BundleProblem, EngineProblem, RecordsProblem, SettingsProblem) as problem:
        return Finding(subject, False, str(problem))


def _runtime() -> Finding:
    try:
        import onnxruntime
    except ImportError as error:
        return Finding("onnxruntime", False, f"{error}; install lazaret again")
    names = [
        name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
    ]
    return Finding("onnxruntime", True, f"{onnxruntime.__version__}: {', '.join(names)}")


def _torch() -> Finding:
    try:
        return Finding("torch", True, version("torch"))
    except PackageNotFoundError:
        return Finding(
            "torch", None, "only train, attack, fit and evaluate need it: lazaret[train]"
        )


def _decoders() -> Finding:
    missing = [s.name for uid, s in TRANSFER_SYNTAXES.items() if uid not in read_here()]
    if missing:
        detail = f"cannot read {', '.join(missing)}: lazaret[dicom]"
        return Finding("dicom decoders", None, detail)
    return Finding("dicom decoders", True, f"{len(TRANSFER_SYNTAXES)} transfer syntaxes")


def _machine() -> Finding:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    detail = f"{cores} cores, {memory / 2**30:.1f} GB of memory"
    if memory < ENOUGH_MEMORY:
        return Finding("machine", False, f"{detail}; give it 2 GB or lower max_held_bytes")
    return Finding("machine", True, detail)


def _access(settings: Settings, keys: dict[str, str]) -> str:
    Auth(keys, settings.host, settings.anonymous, settings.reviewers)
    return f"{len(keys)} API keys" if keys else f"anyone at {settings.host}: there are no API keys"


def _database(url: str) -> str:
    engine = connect(url)
    migrate(engine)
    engine.dispose()
    return f"{engine.url.render_as_string()} may be written"


def _port(host: str, port: int) -> str:
    bind(host, port).close()
    return f"{host}:{port} is free"


def _bundle(path: Path, settings: Settings) -> str:
    bundle = Bundle.open(path, trusted_keys(settings))
    prove(bundle, bundle_engine(bundle, settings))
    return f"{path}: {bundle.manifest.model.name} verifies and runs on {settings.provider}"
