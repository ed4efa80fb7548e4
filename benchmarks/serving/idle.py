"""What an idle service adds to decoding and the engine, one request at a time.

    python -m benchmarks.serving.idle [--out docs/results/serving_idle.md]

Beside it the two floors that no service on these parts is below: the same body to an application
on uvicorn that does nothing, and one row committed to SQLite.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.__main__ import picture, reduced
from benchmarks.serving.contestants import Body, Contestant, lazaret
from benchmarks.serving.measure import started
from models.machine import describe

PORT = 18_400
WARM = 20
"""Requests before those that count."""
PAUSE_SECONDS = 0.02
"""Between an answer and the next request, so that nothing of the one is left for the other."""


def ask(connection: http.client.HTTPConnection, body: Body) -> dict[str, float]:
    """Milliseconds of one request: as the caller sees it, and by stage."""
    begun = time.perf_counter()
    connection.request("POST", "/diagnose", *body)
    answer = json.loads(connection.getresponse().read())
    whole = 1000 * (time.perf_counter() - begun)
    stages = answer["timing_ms"]
    return {
        "caller": whole, **stages, "added": whole - stages["decode"] - stages["infer"],
        "added but for the record": whole - stages["decode"] - stages["infer"] - stages["record"],
    }  # fmt: skip


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads the body and answers as many bytes as Lazaret, and nothing else."""
    if scope["type"] == "lifespan":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-length", b"1000"), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"0" * 1000})


def bare_milliseconds(image: bytes, requests: int, log: Path) -> list[float]:
    """What a caller of ``nothing`` waits."""
    command = (
        sys.executable, "-m", "uvicorn", "benchmarks.serving.idle:nothing", "--port", str(PORT),
        "--lifespan", "off", "--log-level", "warning",
    )  # fmt: skip
    bare = Contestant("uvicorn", command, folder=Path.cwd())
    found, body = [], bare.body(image)
    with started(bare, PORT, body, {}, log):
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
        for _ in range(requests):
            begun = time.perf_counter()
            connection.request("POST", "/", *body)
            connection.getresponse().read()
            found.append(1000 * (time.perf_counter() - begun))
            time.sleep(PAUSE_SECONDS)
    return found[WARM:]


def commit_milliseconds(path: Path, requests: int) -> list[float]:
    """One small row, durable: as Lazaret's own database is set."""
    base = sqlite3.connect(path, isolation_level=None)
    base.execute("pragma journal_mode = wal")
    base.execute("pragma synchronous = full")
    base.execute("create table answer (body text)")
    found = []
    for _ in range(requests):
        begun = time.perf_counter()
        base.execute("insert into answer values (?)", ("0" * 1000,))
        found.append(1000 * (time.perf_counter() - begun))
        time.sleep(PAUSE_SECONDS)
    base.close()
    return found[WARM:]


def main() -> None:
    """Measure, print, and write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--work", type=Path, default=Path("runs/serving_idle"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    image = picture()
    one = lazaret(reduced(work / "bundle"), PORT, 1, work)
    body = one.body(image)
    found: list[dict[str, float]] = []
    with started(one, PORT, body, {"OMP_NUM_THREADS": "1"}, work / "log"):
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
        for number in range(arguments.requests + WARM):
            told = ask(connection, body)
            if number >= WARM:
                found.append(told)
            time.sleep(PAUSE_SECONDS)
    lines = [
        "# What an idle service adds",
        "",
        f"`python -m benchmarks.serving.idle --requests {arguments.requests}`; {describe()}. The "
        "model and the file of [serving.md](serving.md), one request at a time over one "
        f"connection, {1000 * PAUSE_SECONDS:g} ms apart. `added` is what the caller waits beside "
        "`decode` (with the wait for a thread and the fingerprint) and `infer`; the target is "
        f"2 ms. Load average of the machine at the end: {os.getloadavg()[0]:.1f} on "
        f"{os.cpu_count()} cores.",
        "",
        "| milliseconds | tenth percentile | median | ninetieth |",
        "|---|---|---|---|",
    ]
    rows = {stage: [told[stage] for told in found] for stage in found[0]}
    rows["floor: an empty application on uvicorn"] = bare_milliseconds(
        image, arguments.requests + WARM, work / "log"
    )
    rows["floor: a row committed to SQLite"] = commit_milliseconds(
        work / "floor.sqlite3", arguments.requests + WARM
    )
    for name, values in rows.items():
        cells = (f"{value:.2f}" for value in np.percentile(values, (10, 50, 90)))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    page = "\n".join([*lines, ""])
    print(page)
    if arguments.out:
        arguments.out.write_text(page)


if __name__ == "__main__":
    main()
