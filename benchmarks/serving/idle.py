"""What an idle service adds to decoding and the engine, one request at a time.

python -m benchmarks.serving.idle [--out docs/results/serving_idle.md]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np

from benchmarks.serving.__main__ import picture, reduced
from benchmarks.serving.contestants import lazaret
from benchmarks.serving.measure import started
from models.machine import describe

PORT = 18_400
PAUSE_SECONDS = 0.02
"""Between an answer and the next request, so that nothing of the one is left for the other."""


def ask(connection: http.client.HTTPConnection, body: bytes) -> dict[str, float]:
    """Milliseconds of one request: as the caller sees it, and by stage."""
    begun = time.perf_counter()
    connection.request("POST", "/diagnose", body, {"Content-Type": "image/jpeg"})
    answer = json.loads(connection.getresponse().read())
    whole = 1000 * (time.perf_counter() - begun)
    stages = answer["timing_ms"]
    return {
        "caller": whole, **stages, "added": whole - stages["decode"] - stages["infer"],
        "added but for the record": whole - stages["decode"] - stages["infer"] - stages["record"],
    }  # fmt: skip


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
    body = picture()
    one = lazaret(reduced(work / "bundle"), PORT, 1, work)
    found: list[dict[str, float]] = []
    with started(one, PORT, (body, "image/jpeg"), {"OMP_NUM_THREADS": "1"}, work / "log"):
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
        for number in range(arguments.requests + 20):
            told = ask(connection, body)
            if number >= 20:
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
    for stage in found[0]:
        values = np.percentile([told[stage] for told in found], (10, 50, 90))
        lines.append(f"| {stage} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    page = "\n".join([*lines, ""])
    print(page)
    if arguments.out:
        arguments.out.write_text(page)


if __name__ == "__main__":
    main()
