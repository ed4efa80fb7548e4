"""A private Redis."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from servers.process import accepts, free_port, program, running

PATIENT = 10.0
"""Seconds to wait for it where no test asks for less, so that a machine that stalls loses none."""


@dataclass
class RedisServer:
    """A running Redis that keeps nothing on disk."""

    url: str
    port: int
    process: subprocess.Popen[bytes]


@contextmanager
def redis_server(folder: Path, port: int | None = None) -> Iterator[RedisServer]:
    """A Redis on the loopback address, on a free port unless one is given."""
    chosen = port or free_port()
    command = [
        program("redis-server", "redis-server"),
        *("--port", str(chosen), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
        *("--dir", str(folder)),
    ]
    with running(command, folder / "redis.log", lambda: accepts(chosen)) as process:
        yield RedisServer(f"redis://127.0.0.1:{chosen}/0", chosen, process)
