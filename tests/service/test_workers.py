"""Several workers must look like one service, lose little when one dies, and stop as one does."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from conftest import Server, server_process, wait_ready
from test_service_process import on_record, post_all, serve
from tiny_bundle import ACCEPTED, REJECTED, flat

from service.cores import cores
from service.settings import Settings
from service.workers import for_one_worker

TWO = {"LAZARET_WORKERS": "2"}


def together(bundle: Path) -> list[str]:
    return [*serve(bundle), "--workers", "2"]


def children(server: Server) -> list[int]:
    tasks = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return [int(pid) for pid in tasks.read_text().split()]


def events(server: Server, name: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in server.log.read_text().splitlines()]
    return [event for event in found if event["event"] == name]


def metric(server: Server, name: str) -> float:
    page = httpx.get(f"{server.url}/metrics").text
    return sum(
        float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", page, re.MULTILINE)
    )


def until(condition: object, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_two_workers_answer_as_one(bundle: Path, tmp_path: Path) -> None:
    with server_process(together(bundle), tmp_path) as server:
        until(lambda: len(events(server, "listening")) == 2)
        until(lambda: metric(server, "lazaret_workers") == 2)
        bodies = [(flat(ACCEPTED), "image/png"), (flat(REJECTED), "image/png")] * 32
        answers = asyncio.run(post_all(server.url, bodies))
        assert Counter(a.status_code for a in answers) == {200: 64}
        assert len(on_record(server.database)) == 64
        # whichever worker is asked, the page counts both
        for _ in range(4):
            assert metric(server, "lazaret_verdicts_total") == 64
        busy = [Path(f"/proc/{pid}/stat").read_text().split()[13] for pid in children(server)]
        assert len(busy) == 2
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/livez")


def test_a_dead_worker_is_replaced_and_counted(bundle: Path, tmp_path: Path) -> None:
    with server_process(together(bundle), tmp_path) as server:
        until(lambda: len(events(server, "listening")) == 2)
        answers = asyncio.run(post_all(server.url, [(flat(ACCEPTED), "image/png")] * 8))
        assert all(a.status_code == 200 for a in answers)
        first, second = children(server)
        os.kill(first, signal.SIGKILL)
        until(lambda: len(events(server, "listening")) == 3)
        wait_ready(httpx.Client(base_url=server.url))
        assert second in children(server)
        assert len(children(server)) == 2
        assert metric(server, "lazaret_worker_restarts_total") == 1
        until(lambda: metric(server, "lazaret_workers") == 2)
        # what the dead one had counted and recorded is not lost
        assert metric(server, "lazaret_verdicts_total") == 8
        answers = asyncio.run(post_all(server.url, [(flat(ACCEPTED), "image/png")] * 16))
        assert Counter(a.status_code for a in answers) == {200: 16}
        assert len(on_record(server.database)) == 16  # ids repeat, so the later ones count


def test_exemplars_are_those_of_the_worker_that_is_asked(bundle: Path, tmp_path: Path) -> None:
    with server_process(together(bundle), tmp_path) as server:
        headers = {"Content-Type": "image/png", "traceparent": f"00-{32 * 'a'}-{16 * 'b'}-01"}
        httpx.post(f"{server.url}/diagnose", content=flat(ACCEPTED), headers=headers)
        asked = {"Accept": "application/openmetrics-text"}

        def told() -> bool:  # a new connection each time, so both are asked in the end
            return 'trace_id="' + 32 * "a" in httpx.get(f"{server.url}/metrics", headers=asked).text

        until(told)


def test_workers_follow_a_parent_that_is_killed(bundle: Path, tmp_path: Path) -> None:
    with server_process(together(bundle), tmp_path) as server:
        until(lambda: len(events(server, "listening")) == 2)
        pids = children(server)
        server.process.kill()
        server.process.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 15)


def test_what_must_not_be_served_is_said_once(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, *serve(tmp_path / "none"), "--workers", "2", "--port", "0"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert found.returncode == 2
    assert "manifest.json" in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


def test_a_port_that_another_service_shares_is_refused(bundle: Path, tmp_path: Path) -> None:
    with server_process(together(bundle), tmp_path) as server:
        port = server.url.rpartition(":")[2]
        found = subprocess.run(
            [sys.executable, *together(bundle), "--port", port],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
        assert found.returncode == 2
        assert "cannot listen" in found.stderr


def test_small_products_start_no_threads_of_their_own() -> None:
    code = "import service.cli, numpy, os; print(len(os.listdir('/proc/self/task')))"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS", "OMP"))}
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, env=environment, text=True).strip() == "1"


def test_cores_and_bounds_are_divided(bundle: Path) -> None:
    settings = Settings(
        bundles=(bundle,), workers=4, decode_threads=6, max_in_flight=100, max_held_bytes=400
    )
    one = for_one_worker(settings)
    assert one.threads == max(1, cores() // 4)
    assert (one.decode_threads, one.max_in_flight, one.max_held_bytes) == (2, 25, 100)
    assert for_one_worker(settings.model_copy(update={"threads": 3})).threads == 3
