"""Where the CPU of a request goes, by thread: the application in this process, without sockets.

python -m benchmarks.serving.stages [--out docs/results/serving_stages.md]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.serving.__main__ import picture, reduced
from benchmarks.serving.measure import TICKS, ticks
from models.machine import describe
from service.app import create_app
from service.logs import configure
from service.settings import Settings

AT_ONCE = 8


async def ask(app: Any, path: str, body: bytes = b"") -> int:
    """One request; its status."""
    messages = [{"type": "http.request", "body": body}]
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else await asyncio.Future()

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-length", str(len(body)).encode())]
    await app(
        {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "path": path,
         "method": "POST" if body else "GET", "raw_path": path.encode(), "query_string": b"",
         "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
         "scheme": "http", "root_path": ""},
        receive,
        send,
    )  # fmt: skip
    return int(answers[0]["status"])


def by_thread() -> dict[str, int]:
    """Clock ticks that each kind of thread of this process has used."""
    names = {str(thread.native_id): thread.name for thread in threading.enumerate()}
    found: dict[str, int] = {}
    for task in Path("/proc/self/task").iterdir():
        name = re.sub(r"[_\d]+$", "", names.get(task.name, "runtime's own"))
        found[name] = found.get(name, 0) + ticks(task)
    return found


async def measure(app: Any, body: bytes, requests: int) -> dict[str, float]:
    """Milliseconds a request by thread, with eight requests at once."""
    async with app.router.lifespan_context(app):
        while await ask(app, "/readyz") != 200:
            await asyncio.sleep(0.05)
        for _ in range(20):
            assert await ask(app, "/diagnose", body) == 200
        before, cpu = by_thread(), time.process_time()
        for _ in range(requests // AT_ONCE):
            await asyncio.gather(*(ask(app, "/diagnose", body) for _ in range(AT_ONCE)))
        spent = {name: ticks - before.get(name, 0) for name, ticks in by_thread().items()}
        total = 1000 * (time.process_time() - cpu) / requests
    each = {name: 1000 * ticks / TICKS / requests for name, ticks in spent.items()}
    return {**dict(sorted(each.items(), key=lambda item: -item[1])), "all": total}


def main() -> None:
    """Measure, print, and write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    configure("warning")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            bundles=(reduced(Path(folder) / "bundle"),),
            database=f"sqlite:///{folder}/records.sqlite3",
            threads=1, drift_seconds=3600, canary_seconds=0,
        )  # fmt: skip
        measuring = measure(create_app(settings), picture(), arguments.requests)
        try:
            import uvloop
        except ImportError:
            found = asyncio.run(measuring)
        else:  # as the server does
            found = uvloop.run(measuring)
    what = {
        "MainThread": "event loop: routing, calibration, decision, query history, answer, metrics",
        "decode": "decoding the JPEG at an eighth, digest, fingerprint for the query history",
        "engine": "the fused graph: the model twice and once backwards",
        "records": "the transaction: rows, outbox, commit",
    }
    lines = [
        "# Where the CPU of a request goes",
        "",
        "`OPENBLAS_NUM_THREADS=1 python -m benchmarks.serving.stages --requests "
        f"{arguments.requests}`; {describe()}. "
        "The service without sockets and HTTP parsing, eight requests at once, the body of "
        "[serving.md](serving.md). Load average at the end: "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.",
        "",
        "| thread | CPU ms a request | does |",
        "|---|---|---|",
        *(
            f"| {name} | {ms:.2f} | {what.get(name, '')} |"
            for name, ms in found.items()
            if ms >= 0.01
        ),
        "",
    ]
    page = "\n".join(lines)
    print(page)
    if arguments.out:
        arguments.out.write_text(page)


if __name__ == "__main__":
    main()
