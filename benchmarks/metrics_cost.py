"""What measuring costs: one request's share, and one scrape.

    python benchmarks/metrics_cost.py [--out docs/results/metrics_cost.md]

CPU time throughout, so that a busy machine does not change it: of the thread that counts and writes
the page, and of the whole server process for a request. The server is the real one on its own
process, with the phantom's guard, recording every answer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from detectors.calibrate import PValues
from models.machine import describe
from service.admission import Admission
from service.decide import Decision, Verdict
from service.guard import open_guards
from service.metrics import GatewayMetrics, Metrics
from service.metrics.exposition import page
from service.metrics.shared import FOLDER, keep_values_as
from service.settings import Settings

BUNDLE = Path("models/zoo/phantom/bundle")
IMAGE = Path("models/zoo/phantom/demo/clean-1.png")
FORMATS = {"text": "", "OpenMetrics": "application/openmetrics-text"}
STAGES = {
    "receive": 0.2, "decode": 1.0, "queue": 0.1, "infer": 4.0, "decide": 0.1, "record": 1.0,
    "total": 6.5,
}  # fmt: skip


class _Silent:
    def run(self, images: object) -> object: ...

    def warm_up(self) -> None: ...


def counted() -> tuple[Metrics, Callable[[], None]]:
    """Metrics of a service with the phantom's guard, and the counting of one request."""
    guard = open_guards(Settings(bundles=(BUNDLE,)), lambda _, __: _Silent()).all[0]
    metrics = Metrics()
    gateway = GatewayMetrics(metrics, Admission(10, 10))
    gateway.serves(guard)
    decision = Decision(Verdict.ACCEPT, None, "no p-value at or below a level")
    p = PValues(
        0, 0.5, 0.4, tuple(0.05 + 0.1 * i for i in range(len(guard.bundle.manifest.detectors)))
    )

    def count() -> None:
        gateway.judged(guard, "diagnose", decision, p, 1, STAGES, 32 * "a")

    return metrics, count


def cpu(call: Callable[[], object], rounds: int, calls: int = 1) -> list[float]:
    """CPU seconds of this thread for one call, a value a round."""
    found = []
    for _ in range(rounds):
        started = time.thread_time()
        for _ in range(calls):
            call()
        found.append((time.thread_time() - started) / calls)
    return found


def shared(places: int) -> tuple[Metrics, Callable[[], None]]:
    """The same in the last of so many worker processes, the others having counted too."""
    for place in range(1, places + 1):
        keep_values_as(place)
        metrics, count = counted()
        count()
    return metrics, count


def served(requests: int) -> tuple[float, float, float]:
    """CPU and wall seconds of one request at a time, and CPU seconds of one scrape, of a server."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        environment = {
            **os.environ,
            "LAZARET_DATABASE": f"sqlite:///{folder}/records.sqlite3",
            "LAZARET_CANARY_SECONDS": "0",
            "LAZARET_DRIFT_SECONDS": "3600",
        }
        environment.pop(FOLDER, None)
        command = [sys.executable, "-m", "service", "serve", "--port", "0", "--bundle", str(BUNDLE)]
        with log.open("w") as file:
            process = subprocess.Popen(command, stderr=file, env=environment)
        try:
            with httpx.Client(base_url=_address(log), timeout=60) as client:
                while client.get("/readyz").status_code != 200:
                    time.sleep(0.1)
                data, kind = IMAGE.read_bytes(), {"Content-Type": "image/png"}
                walls = []

                def ask() -> None:
                    started = time.perf_counter()
                    assert client.post("/diagnose", content=data, headers=kind).status_code == 200
                    walls.append(time.perf_counter() - started)

                def scrape() -> None:
                    client.get("/metrics", headers={"Accept": FORMATS["OpenMetrics"]})

                for _ in range(20):
                    ask()
                found = []
                for call in (ask, scrape):
                    before = _spent(process.pid)
                    for _ in range(requests):
                        call()
                    found.append((_spent(process.pid) - before) / requests)
                return found[0], statistics.median(walls[20:]), found[1]
        finally:
            process.terminate()
            process.wait(60)


def _address(log: Path) -> str:
    while True:
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            if entry["event"] == "listening":
                return f"http://127.0.0.1:{entry['port']}"
        time.sleep(0.1)


def _spent(pid: int) -> float:
    """CPU seconds of a process so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print; write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    request, wall, scrape = served(arguments.requests)
    rows, shares = [], []
    metrics, count = counted()
    for name in ("one process", f"{arguments.workers} workers"):
        if name != "one process":
            with tempfile.TemporaryDirectory() as folder:
                os.environ[FOLDER] = folder
                metrics, count = shared(arguments.workers)
                rows += _pages(name, metrics)
                shares.append(_share(name, count, request))
        else:
            shares.append(_share(name, count, request))
            rows += _pages(name, metrics)
    text = "\n".join(
        [
            "# What measuring costs",
            "",
            "`python benchmarks/metrics_cost.py --out docs/results/metrics_cost.md`; CPU time; "
            f"{describe()}.",
            "",
            f"A request to the real server (phantom, 128 x 128, recorded) takes "
            f"{1000 * request:.2f} ms of CPU, {1000 * wall:.2f} ms from end to end at a "
            f"concurrency of one (median of {arguments.requests}; the machine had other work). "
            "Counting it:",
            "",
            "| | CPU of counting one request | share of the request's CPU |",
            "|---|---|---|",
            *shares,
            "",
            "Target: 1 %.",
            "",
            f"A scrape of that server, HTTP included, takes {1000 * scrape:.2f} ms of CPU. Writing "
            "the page alone, with every series that this service has:",
            "",
            "| | format | lines | kB | median ms | longest ms |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "Target: 10 ms.",
            "",
        ]
    )
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


def _share(name: str, count: Callable[[], None], request: float) -> str:
    spent = statistics.median(cpu(count, 20, 500))
    return f"| {name} | {1e6 * spent:.1f} µs | {spent / request:.2%} |"


def _pages(name: str, metrics: Metrics) -> list[str]:
    rows = []
    for title, accept in FORMATS.items():
        written, _ = page(metrics.readable(), accept)
        lines = len(written.splitlines())
        times = cpu(lambda accept=accept: page(metrics.readable(), accept), 100)  # type: ignore[misc]  # mypy cannot infer such a lambda
        rows.append(
            f"| {name} | {title} | {lines} | {len(written) / 1000:.0f} | "
            f"{1000 * statistics.median(times):.2f} | {1000 * max(times):.2f} |"
        )
    return rows


if __name__ == "__main__":
    main()
