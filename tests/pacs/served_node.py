"""``lazaret serve --dicom-port`` in a process of its own, as often as a test starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "zoo" / "phantom" / "demo"
PHANTOM = ROOT / "models" / "zoo" / "phantom" / "bundle"


@dataclass
class ServedNode:
    """A running one."""

    process: subprocess.Popen[str]
    port: int
    """DIMSE."""
    url: str
    log: Path


@contextmanager
def served_node(
    folder: Path,
    routes: Mapping[str, Any],
    *,
    bundle: Path = PHANTOM,
    database: str | None = None,
    **environment: str,
) -> Iterator[ServedNode]:
    """Start it on ``folder``'s spool and records, wait until it listens; kill it afterwards."""
    table, log = folder / "pacs.yaml", folder / "node.log"
    table.write_text(yaml.safe_dump(dict(routes)))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("LAZARET_")}
    given = {
        "LAZARET_BUNDLES": str(bundle),
        "LAZARET_PORT": "0",
        "LAZARET_DICOM_PORT": "0",
        "LAZARET_DATABASE": database or f"sqlite:///{folder}/records.sqlite3",
        "LAZARET_SPOOL": str(folder / "spool"),
        "LAZARET_SPOOL_RESERVE_BYTES": "0",
        "LAZARET_PACS_ROUTES": str(table),
    }
    with log.open("a") as file:
        start = log.stat().st_size
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve"],
            stderr=file, text=True, env=inherited | given | environment, cwd=ROOT,
        )  # fmt: skip
    try:
        ports = _ports(process, log, start)
        url = f"http://127.0.0.1:{ports['listening']}"
        yield ServedNode(process, ports["listening for dicom"], url, log)
    finally:
        process.kill()
        process.wait()


def _ports(process: subprocess.Popen[str], log: Path, start: int) -> dict[str, int]:
    until = time.monotonic() + 60
    found: dict[str, int] = {}
    while len(found) < 2:
        assert process.poll() is None, log.read_text()[start:]
        assert time.monotonic() < until, log.read_text()[start:]
        for line in log.read_text()[start:].splitlines():
            entry = json.loads(line)
            if entry["event"] in ("listening", "listening for dicom"):
                found[entry["event"]] = entry["port"]
        time.sleep(0.05)
    return found
