"""dcmtk's programs, the senders that most archives have been tested with."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from servers.process import program


def dcmtk(
    name: str, *arguments: str | Path | int, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run one of its programs to its end; output and errors together."""
    return subprocess.run(
        [program(name, "dcmtk"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds,
        env={**os.environ, "TCP_NODELAY": "1"},
        check=False,
    )
