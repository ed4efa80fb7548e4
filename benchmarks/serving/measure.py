"""One server in one round: how long it takes to start, what it costs and what it answers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.contestants import Body, Contestant

START_SECONDS = 120.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """What a load at one concurrency gave."""

    requests: int
    failures: int
    per_second: float
    cpu_ms: float
    """CPU of the server and all its processes, a request."""
    p50_ms: float
    p99_ms: float


def tree(pid: int) -> list[int]:
    """A process and everything below it."""
    found = [pid]
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []
    for task in tasks:
        try:
            for child in (task / "children").read_text().split():
                found += tree(int(child))
        except OSError:
            continue
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a tree."""
    total = 0
    for one in tree(pid):
        try:
            total += ticks(Path(f"/proc/{one}"))
        except OSError:
            continue
    return total / TICKS


def ticks(of: Path) -> int:
    """User and system time of a process or thread by its folder in ``/proc``, in clock ticks.
    Raises ``OSError`` when it has ended."""
    fields = (of / "stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def memory_mb(pid: int) -> float:
    """Proportional set size of a tree: shared pages count once in all."""
    total = 0
    for one in tree(pid):
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        total += int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE).group(1))  # type: ignore[union-attr]  # Linux always has it
    return total / 1024


@contextmanager
def started(
    one: Contestant, port: int, body: Body, environment: Mapping[str, str], log: Path
) -> Iterator[tuple[int, float]]:
    """Start it; its process and the seconds until it answered a real request."""
    begun = time.monotonic()
    with log.open("ab") as file:
        process = subprocess.Popen(
            one.command, cwd=one.folder, stdout=file, stderr=file, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(one.folder), **environment, **one.environment},
        )  # fmt: skip
    try:
        while not answers(f"http://127.0.0.1:{port}{one.path}", body):
            if process.poll() is not None or time.monotonic() - begun > START_SECONDS:
                raise RuntimeError(f"{one.name} did not start, see {log}")
            time.sleep(0.05)
        yield process.pid, time.monotonic() - begun
    finally:
        whole = tree(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in whole:  # what it left behind
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def answers(url: str, body: Body) -> bool:
    """Whether a request is answered with 200."""
    request = urllib.request.Request(url, body[0], dict(body[1]))
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def check_accepted(url: str, body: Body) -> None:
    """Raises ``RuntimeError`` unless the guard accepts the image: a held one opens a case, which
    keeps the whole file."""
    request = urllib.request.Request(url, body[0], dict(body[1]))
    with urllib.request.urlopen(request, timeout=10) as response:
        verdict = json.load(response)["verdict"]
    if verdict != "accept":
        raise RuntimeError(f"the image is answered with {verdict}")


def load(
    url: str, script: Path, pid: int, concurrency: int, seconds: float, threads: int = 1
) -> Load:
    """Keep ``concurrency`` requests in flight with ``threads`` of wrk."""
    before = cpu_seconds(pid)
    found = subprocess.run(
        ["wrk", f"-t{threads}", f"-c{concurrency}", f"-d{seconds:g}s", "--timeout", "20s", "-s",
         str(script), url],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    spent = cpu_seconds(pid) - before
    values = dict(re.findall(r"^result (\w+) (\S+)$", found, re.MULTILINE))
    requests, failures = int(values["requests"]), int(values["failures"])
    return Load(
        requests, failures, requests / float(values["seconds"]),
        1000 * spent / max(requests, 1), float(values["p50"]), float(values["p99"]),
    )  # fmt: skip


def looped(graph: Path, image: Path, side: int, seconds: float, *also: str) -> tuple[float, float]:
    """Images a second and CPU milliseconds an image of ``benchmarks.serving.raw_loop``: the limit
    of every server."""
    found = subprocess.check_output(
        [sys.executable, "-m", "benchmarks.serving.raw_loop", str(graph), str(image), str(side),
         str(seconds), *also],
        text=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    rate, cpu = map(float, found.split())
    return rate, cpu


def write_script(path: Path, body: Body) -> Path:
    """wrk's script for a body, which lies beside it."""
    content, headers = body
    beside = path.with_suffix(".body")
    beside.write_bytes(content)
    named = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in headers.items())
    path.write_text(
        f'local file = io.open("{beside}", "rb")\n'
        'wrk.method = "POST"\n'
        'wrk.body = file:read("*a")\n'
        f"{named}"
        "done = function(summary, latency)\n"
        '  print("result requests " .. summary.requests)\n'
        '  print("result failures " .. summary.errors.status + summary.errors.timeout'
        " + summary.errors.read + summary.errors.connect)\n"
        '  print("result seconds " .. summary.duration / 1e6)\n'
        '  print("result p50 " .. latency:percentile(50) / 1000)\n'
        '  print("result p99 " .. latency:percentile(99) / 1000)\n'
        "end\n"
    )
    return path
