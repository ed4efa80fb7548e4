"""A server program in a process of its own, for as long as a test needs it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

START_SECONDS = 60.0
PROGRAM_FOLDERS = "/usr/sbin:/usr/local/sbin"
"""Where Debian puts servers that an ordinary user's PATH lacks."""


def program(name: str, package: str, folders: str = "") -> str:
    """The path of ``name``. Without it a test fails in CI and is skipped elsewhere.

    Args:
        folders: a pattern of further folders to look in; of several the last wins.
    """
    found_folders = Path("/").glob(folders.lstrip("/")) if folders else ()
    further = ":".join(sorted(map(str, found_folders), reverse=True))
    found = shutil.which(name, path=f"{os.environ['PATH']}:{PROGRAM_FOLDERS}:{further}")
    if found is None:
        missing = f"{name} is not installed; apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def free_port() -> int:
    """A port of the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    """Whether something listens on the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    ready: Callable[[], bool],
    *,
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start ``command``, wait until ``ready()``, stop it afterwards.

    Args:
        log: gets its output, which is shown when it does not start.
        user: whom to run it as; only root can.
        stop: how it is asked to end.
    """
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            user=user,
        )
    try:
        until = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail(
                    f"{command[0]} did not start: {log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
