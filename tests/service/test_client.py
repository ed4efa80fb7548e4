"""The client must come again when asked to, and only then."""

import asyncio
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from conftest import server_process
from test_service_process import serve
from tiny_bundle import ACCEPTED, FLAGGED, REJECTED, flat

from service.client import AsyncClient, Client, Found, Refused


@pytest.fixture(scope="module")
def url(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server_process(serve(bundle), tmp_path_factory.mktemp("client")) as server:
        yield server.url


def test_one_image(url: str, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(flat(FLAGGED))
    with Client(url, model="tiny") as client:
        answer = client.diagnose(file, request_id="mine")
        assert (answer.verdict, answer.request_id) == ("flag", "mine")
        assert answer.case_id is not None
        with pytest.raises(Refused, match="not a PNG") as caught:
            client.diagnose(b"rubbish")
        assert caught.value.status == 415
    with Client(url, model="other") as client, pytest.raises(Refused, match="not loaded"):
        client.diagnose(file)


FILES = [flat(ACCEPTED), b"rubbish", flat(REJECTED)]


def verdicts(found: list[Found]) -> list[str | int]:
    return [
        f.answer.verdict if f.answer else f.problem.status for f in found if f.problem or f.answer
    ]


def test_many_images(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    with Client(url, at_once=2) as client:
        assert verdicts(list(client.diagnose_many(FILES * 4, progress=True))) == [
            "accept", 415, "reject",
        ] * 4  # fmt: skip
    assert capfd.readouterr().out == ""

    async def scenario() -> list[Found]:
        async with AsyncClient(url, at_once=2) as client:
            return [found async for found in client.diagnose_many(FILES)]

    assert set(verdicts(asyncio.run(scenario()))) == {"accept", 415, "reject"}


class Busy(BaseHTTPRequestHandler):
    """Refuses with the statuses it is told; then hangs up; then with a page that is no problem."""

    answers: list[int]
    asked: list[float]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(time.monotonic())
        status = self.answers.pop(0)
        if status == 0:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Retry-After", "0" if status != 429 else "1")
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"nope")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def busy() -> Iterator[str]:
    Busy.answers, Busy.asked = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_it_comes_again_when_asked_to(busy: str) -> None:
    Busy.answers = [503, 0, 429, 400]
    with Client(busy) as client, pytest.raises(Refused, match="HTTP 400"):
        client.diagnose(b"image")
    assert len(Busy.asked) == 4
    assert Busy.asked[3] - Busy.asked[2] >= 1  # as Retry-After said

    async def scenario() -> None:
        async with AsyncClient(busy, tries=2) as client:
            with pytest.raises(Refused, match="HTTP 503"):
                await client.diagnose(b"image")

    Busy.answers = [503, 503, 503]
    asyncio.run(scenario())
    assert Busy.answers == [503]


def test_a_service_that_is_not_there_is_an_error() -> None:
    with Client("http://127.0.0.1:1", tries=2) as client, pytest.raises(httpx.ConnectError):
        client.diagnose(b"image")
