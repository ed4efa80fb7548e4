"""A batch is many single requests in one: each image answered, recorded and refused on its own."""

import asyncio
import base64
import json
import socket
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import TESTS, server_process, serving
from fastapi.testclient import TestClient
from test_deadlines import SlowEngine
from test_diagnose_api import BreakingEngine, assert_problem
from test_service_process import on_record
from tiny_bundle import ACCEPTED, FLAGGED, REJECTED, flat, write_bundle

from service.guard import onnx_engine
from service.settings import Settings

BATCH = "/diagnose/batch"


def form(*files: bytes) -> dict[str, Any]:
    return {"files": [("image", ("Doe^Jane.png", data, "image/png")) for data in files]}


def ndjson(*files: bytes) -> dict[str, Any]:
    lines = [json.dumps({"image": base64.b64encode(data).decode()}) for data in files]
    return {
        "content": "\n".join(lines).encode(),
        "headers": {"Content-Type": "application/x-ndjson"},
    }


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    """By index."""
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/x-ndjson"
    found = [json.loads(line) for line in response.text.splitlines()]
    return sorted(found, key=lambda line: line["index"])


@pytest.mark.parametrize("as_request", [form, ndjson])
def test_each_image_gets_its_answer(client: TestClient, tmp_path: Path, as_request: Any) -> None:
    asked = as_request(flat(ACCEPTED), b"rubbish", flat(FLAGGED, form="PNG"), flat(REJECTED))
    asked.setdefault("headers", {})["X-Request-ID"] = "round"
    response = client.post(BATCH, **asked)
    found = lines(response)
    assert response.headers["X-Request-ID"] == "round"
    assert [line["status"] for line in found] == [200, 415, 200, 200]
    verdicts = [line["answer"] and line["answer"]["verdict"] for line in found]
    assert verdicts == ["accept", None, "flag", "reject"]
    assert found[1]["problem"]["request_id"] == "round.1"
    assert found[2]["answer"]["request_id"] == "round.2"
    with sqlite3.connect(tmp_path / "records.sqlite3") as database:
        recorded = dict(database.execute("SELECT request_id, status FROM requests"))
    assert recorded == {"round.0": 200, "round.1": 415, "round.2": 200, "round.3": 200}


def test_a_broken_line_fails_alone(client: TestClient) -> None:
    good = ndjson(flat(ACCEPTED))["content"]
    for bad in (b"{", b"[]", b'{"image": "?"}', b'{"image": 7}', b"\xff", b"[" * 10_000):
        body = b"\n".join([good, bad, b"", good])
        headers = {"Content-Type": "application/x-ndjson"}
        found = lines(client.post(BATCH, content=body, headers=headers))
        assert [line["status"] for line in found] == [200, 400, 200]


def test_an_image_that_breaks_the_engine_fails_alone(settings: Settings) -> None:
    with serving(settings, load_engine=BreakingEngine) as client:
        grays = [ACCEPTED, 99, ACCEPTED, ACCEPTED]
        found = lines(client.post(BATCH, **form(*(flat(gray) for gray in grays))))
        assert [line["status"] for line in found] == [200, 422, 200, 200]


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"content": b""}, 415),
        ({"content": flat(ACCEPTED), "headers": {"Content-Type": "image/png"}}, 415),
        ({"content": b"", "headers": {"Content-Type": "application/x-ndjson"}}, 400),
        ({"content": b"\n" * 50, "headers": {"Content-Type": "application/x-ndjson"}}, 413),
        ({"files": [("file", ("a", b"b"))]}, 400),
        (form(*[flat(ACCEPTED)] * 6), 413),
        (form(*[flat(ACCEPTED)] * 60), 400),
        (ndjson(*[flat(ACCEPTED)] * 6), 413),
        (ndjson(bytes(300_000)), 413),
        ({**ndjson(flat(ACCEPTED)), "params": {"model": "other"}}, 404),
    ],
)
def test_what_is_no_batch_gets_a_problem(
    settings: Settings, asked: dict[str, Any], status: int
) -> None:
    small = settings.model_copy(update={"max_request_images": 5, "max_request_bytes": 200_000})
    with serving(small) as client:
        assert_problem(client.post(BATCH, **asked), status)


def test_a_batch_larger_than_the_service_is_answered_whole(settings: Settings) -> None:
    update = {"max_in_flight": 3, "batch_images": 2, "max_held_bytes": 60_000}
    with serving(settings.model_copy(update=update)) as client:
        found = lines(client.post(BATCH, **form(*[flat(ACCEPTED)] * 100)))
        assert {line["status"] for line in found} == {200}
        assert client.post("/diagnose", content=flat(ACCEPTED)).status_code == 200


def test_a_flooded_model_does_not_hold_up_another(
    bundle: Path, settings: Settings, tmp_path: Path
) -> None:
    other = write_bundle(tmp_path / "other", name="other")
    engines = iter((SlowEngine, onnx_engine))
    update = {"bundles": (bundle, other), "batch_images": 1}
    with (
        serving(
            settings.model_copy(update=update), load_engine=lambda g, s: next(engines)(g, s)
        ) as client,
        ThreadPoolExecutor(1) as flood,
    ):
        asked = form(*[flat(ACCEPTED)] * 10)
        slow = flood.submit(client.post, BATCH, params={"model": "tiny"}, **asked)
        time.sleep(0.1)
        answer = client.post("/diagnose?model=other", content=flat(ACCEPTED)).json()
        assert answer["timing_ms"]["queue"] < 100
        assert not slow.done()
        assert len(lines(slow.result())) == 10


def test_answers_are_sent_as_they_come_and_a_lost_caller_stops_the_work(
    bundle: Path, tmp_path: Path
) -> None:
    command = [str(TESTS / "slow_server.py"), str(bundle), "0.2"]
    with server_process(command, tmp_path, {"LAZARET_BATCH_IMAGES": "1"}) as server:

        async def scenario() -> None:
            async with httpx.AsyncClient(base_url=server.url, timeout=20) as http:
                asked = form(*[flat(ACCEPTED)] * 24)
                started = time.perf_counter()
                async with http.stream("POST", BATCH, **asked) as response:
                    async for _ in response.aiter_lines():
                        break
                assert time.perf_counter() - started < 2

        asyncio.run(scenario())
        time.sleep(1)
        stopped = len(on_record(server.database))
        time.sleep(1)
        assert len(on_record(server.database)) == stopped < 24
        answer = httpx.post(f"{server.url}/diagnose", content=flat(ACCEPTED), timeout=20)
        assert answer.status_code == 200
        in_flight = [
            line for line in httpx.get(f"{server.url}/metrics").text.splitlines()
            if line.startswith("lazaret_in_flight_requests")
        ]  # fmt: skip
        assert in_flight[0].split()[-1] in ("0", "0.0")


def test_a_caller_that_sends_half_leaves_nothing_behind(bundle: Path, tmp_path: Path) -> None:
    from test_service_process import head, serve

    with server_process(serve(bundle), tmp_path, {"LAZARET_MAX_IN_FLIGHT": "1"}) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 5) as connection:
            request = head(server.url, "Content-Length: 1000", target=BATCH)
            connection.sendall(request + b"half")
        time.sleep(0.2)
        answer = httpx.post(f"{server.url}{BATCH}", **form(flat(ACCEPTED)))
        assert lines(answer)[0]["status"] == 200
