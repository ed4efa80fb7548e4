"""What every page of a benchmark that is run as a module has: its command, and where it goes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path


def command_of(name: str) -> str:
    """The command line of this run of ``benchmarks.NAME``."""
    return shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]])


def publish(lines: Sequence[str], path: Path | None) -> None:
    """Print the page; write it if asked."""
    body = "\n".join(lines)
    print(body)
    if path is not None:
        path.write_text(body)
