"""The real service in a process of its own, its traffic, and the rules at a test's pace."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from servers.process import free_port
from tiny_bundle import FLAGGED, REJECTED, degraded, encode, flat, write_bundle

from detectors.bundle import Bundle
from detectors.canaries import Canary, Kind, seal

HERE = Path(__file__).parent
RULES = HERE.parents[1] / "deploy" / "prometheus" / "rules"
PATTERN = np.kron(np.random.default_rng(5).integers(40, 120, (8, 8)), np.ones((8, 8)))
ORDINARY = (*(flat(gray) for gray in range(2, 124, 2)), encode(PATTERN.astype(np.uint8)))
"""Images whose p-values are spread over (0, 1), as benign ones' are; the last shows something, so
that the query history remembers it."""
PNG = {"Content-Type": "image/png"}


@dataclass
class Service:
    """One replica, which can be killed and started again at the same address."""

    folder: Path
    bundle: Path
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def control(self) -> Path:
        """The file that switches its engine's faults."""
        return self.folder / "control"

    def fault(self, words: str = "") -> None:
        """Switch a fault on, or all off."""
        fresh = self.folder / "control.new"
        fresh.write_text(words)
        fresh.replace(self.control)

    def start(self, database: str = "records") -> None:
        """Start it."""
        if not self.control.exists():
            self.fault()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("LAZARET_")}
        given = {
            "LAZARET_PORT": str(self.port),
            "LAZARET_BUNDLES": str(self.bundle),
            "LAZARET_DATABASE": f"sqlite:///{self.folder}/{database}.sqlite3",
            "LAZARET_LOG_LEVEL": "error",
            "LAZARET_CANARY_SECONDS": "0.5",
            "LAZARET_DRIFT_SECONDS": "0.5",
            "LAZARET_BUNDLE_SECONDS": "0.5",
        }
        log = (self.folder / "service.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "faulty_service.py"), str(self.control)],
            stderr=log, env=inherited | given | self.environment,
        )  # fmt: skip
        log.close()

    def wait_until_answering(self, address: str = "/readyz") -> None:
        """Ask until it answers 200."""
        until = time.monotonic() + 60
        while True:
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "service.log").read_text()
            try:
                if httpx.get(f"http://{self.address}{address}").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < until, "the service did not become ready"
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def service(folder: Path, **environment: str) -> Iterator[Service]:
    """The service on a bundle with canaries, ready; killed afterwards."""
    bundle = write_bundle(folder / "bundle")
    canaries = (
        Canary(Kind.CLEAN, flat(40)),
        Canary(Kind.CLEAN, flat(80)),
        Canary(Kind.ADVERSARIAL, flat(REJECTED)),
    )
    seal(bundle, Bundle.open(bundle).manifest, canaries)
    made = Service(folder, bundle, {f"LAZARET_{k.upper()}": v for k, v in environment.items()})
    made.start()
    try:
        made.wait_until_answering()
        yield made
    finally:
        made.kill()


class Traffic:
    """Clients that send a mix of images, over and over, and go on whatever comes back.

    Args:
        pause: seconds that each client waits between two requests.
    """

    def __init__(self, address: str, clients: int = 4, pause: float = 0.03) -> None:
        self.pause = pause
        self._url = f"http://{address}/diagnose"
        self._images: Sequence[bytes] = ()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(i,)) for i in range(clients)]

    def send(self, images: Sequence[bytes]) -> None:
        """Send these from now on; nothing while there are none."""
        self._images = images

    def _send(self, number: int) -> None:
        with httpx.Client(timeout=30) as client:
            for i in itertools.count(number):
                if self._stop.wait(self.pause):
                    return
                images = self._images
                if not images:
                    continue
                try:
                    client.post(self._url, content=images[i * 7 % len(images)], headers=PNG)
                except httpx.TransportError:
                    time.sleep(0.05)

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


NOISE = np.random.default_rng(6)
SMOOTHED = tuple(encode(NOISE.integers(3, 5, (32, 32), np.uint8)) for _ in range(600))
"""Images, no two alike, that all look less suspicious than most of those calibrated on."""

MIXED = (
    *ORDINARY * 3,
    flat(FLAGGED),
    flat(REJECTED),
    degraded(),
    b"no image",
    flat(100, form="JPEG"),
)
"""Mostly ordinary; a flag, a reject, a held one for its quality, and two refusals."""

PACE = {
    "5m": "5s", "15m": "6s", "30m": "6s", "1h": "8s", "2h": "8s", "6h": "10s", "1d": "12s",
    "3d": "12s", "7d": "15s",
}  # fmt: skip


def quick_rules(folder: Path) -> list[Path]:
    """The shipped rules with their windows of minutes to days as seconds, and no patience."""
    written = []
    for path in sorted(RULES.glob("*.yml")):
        text = re.sub(r"\[(\d+[mhd])\]", lambda m: f"[{PACE[m[1]]}]", path.read_text())
        text = re.sub(r"for: \S+", "for: 1s", text)
        written.append(folder / path.name)
        written[-1].write_text(text)
    return written
