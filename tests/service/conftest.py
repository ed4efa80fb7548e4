"""A tiny bundle, and the service running on it in this process or its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings

TESTS = Path(__file__).parent


@pytest.fixture
def settings(bundle: Path, tmp_path: Path) -> Settings:
    """Serve it to anyone on the loopback address."""
    return Settings(bundles=(bundle,), database=f"sqlite:///{tmp_path}/records.sqlite3")


@contextmanager
def serving(settings: Settings, **given: object) -> Iterator[TestClient]:
    """The application in this process, warm."""
    app = create_app(settings, **given)
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
        wait_ready(client)
        yield client


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """The application in this process, warm."""
    with serving(settings) as client:
        yield client


def wait_ready(client: httpx.Client, seconds: float = 60) -> None:
    """Poll ``/readyz``."""
    until = time.monotonic() + seconds
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < until, "the service did not become ready"
        time.sleep(0.02)


@dataclass
class Server:
    """The service in its own process."""

    process: subprocess.Popen[str]
    url: str
    log: Path
    database: Path


@contextmanager
def server_process(
    command: list[str], tmp_path: Path, environment: dict[str, str] | None = None
) -> Iterator[Server]:
    """Start ``python *command`` on a free port, wait until it is ready, kill it afterwards."""
    log, database = tmp_path / "server.log", tmp_path / "records.sqlite3"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("LAZARET_")}
    given = {"LAZARET_PORT": "0", "LAZARET_DATABASE": f"sqlite:///{database}"}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *command],
            stderr=file,
            text=True,
            env=inherited | given | (environment or {}),
            cwd=TESTS,
        )
    try:
        url = f"http://127.0.0.1:{_port(process, log)}"
        with httpx.Client(base_url=url) as client:
            wait_ready(client)
        yield Server(process, url, log, database)
    finally:
        process.kill()
        process.wait()


def _port(process: subprocess.Popen[str], log: Path) -> int:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            if entry["event"] == "listening":
                return int(entry["port"])
        time.sleep(0.02)
    pytest.fail(f"the server did not start: {log.read_text()}")
