"""The service as a process: floods, signals, kill -9. What was answered must be on record."""

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from conftest import TESTS, server_process
from tiny_bundle import ACCEPTED, FLAGGED, REJECTED, flat

from service.server import bind

LAZARET = ["-c", "from service.cli import app; app()"]


def serve(bundle: Path) -> list[str]:
    return [*LAZARET, "serve", "--bundle", str(bundle)]


def on_record(database: Path) -> dict[str, int]:
    """Request id to status."""
    with sqlite3.connect(database) as connection:
        return dict(connection.execute("SELECT request_id, status FROM requests"))


async def post_all(url: str, bodies: list[tuple[bytes, str]]) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=len(bodies))
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client:
        return await asyncio.gather(
            *(
                client.post(
                    "/diagnose",
                    content=body,
                    headers={"Content-Type": kind, "X-Request-ID": f"r{i}"},
                )
                for i, (body, kind) in enumerate(bodies)
            )
        )


def test_a_hundred_mixed_requests_at_once(bundle: Path, tmp_path: Path) -> None:
    kinds = [
        (flat(ACCEPTED), "image/png", 200),
        (flat(FLAGGED, form="JPEG"), "image/jpeg", 200),
        (flat(REJECTED, side=48), "image/png", 200),
        (os.urandom(500), "image/png", 415),
        (b"", "image/png", 400),
        (b"\x89PNG\r\n\x1a\n" + bytes(300_000), "image/png", 413),
        (flat(ACCEPTED), "image/jpeg", 415),
    ]
    requests = [kinds[i % len(kinds)] for i in range(100)]
    environment = {"LAZARET_MAX_FILE_BYTES": "200000"}
    with server_process(serve(bundle), tmp_path, environment) as server:
        answers = asyncio.run(post_all(server.url, [(body, kind) for body, kind, _ in requests]))
        assert [a.status_code for a in answers] == [status for _, _, status in requests]
        recorded = on_record(server.database)
        assert recorded == {f"r{i}": status for i, (_, _, status) in enumerate(requests)}
        assert httpx.get(f"{server.url}/readyz").status_code == 200


def test_an_answered_request_survives_kill_9(bundle: Path, tmp_path: Path) -> None:
    with server_process(serve(bundle), tmp_path) as server:

        async def until_killed() -> set[str]:
            answered = set()

            async def client(number: int) -> None:
                async with httpx.AsyncClient(base_url=server.url, timeout=10) as http:
                    for i in range(10_000):
                        name = f"r{number}-{i}"
                        await http.post(
                            "/diagnose", content=flat(REJECTED), headers={"X-Request-ID": name}
                        )
                        answered.add(name)

            async def killer() -> None:
                while len(answered) < 50:
                    await asyncio.sleep(0.01)
                server.process.send_signal(signal.SIGKILL)

            await asyncio.gather(*(client(n) for n in range(8)), killer(), return_exceptions=True)
            return answered

        answered = asyncio.run(until_killed())
        assert len(answered) >= 50
        with sqlite3.connect(server.database) as database:
            held = {row[0] for row in database.execute("SELECT request_id FROM cases")}
        assert answered <= set(on_record(server.database))
        assert answered <= held


def test_sigterm_answers_what_was_taken(bundle: Path, tmp_path: Path) -> None:
    with server_process([str(TESTS / "slow_server.py"), str(bundle), "0.5"], tmp_path) as server:

        async def scenario() -> list[httpx.Response]:
            flood = asyncio.create_task(post_all(server.url, [(flat(ACCEPTED), "image/png")] * 16))
            await asyncio.sleep(0.7)  # one batch of four is answered, one runs, the others wait
            server.process.send_signal(signal.SIGTERM)
            return await flood

        answers = asyncio.run(scenario())
        assert Counter(a.status_code for a in answers) == {200: 16}
        assert server.process.wait(10) == 0
        assert len(on_record(server.database)) == 16
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/livez")


def test_overload_is_shed_while_health_answers(bundle: Path, tmp_path: Path) -> None:
    command = [str(TESTS / "slow_server.py"), str(bundle), "2"]
    with server_process(command, tmp_path, {"LAZARET_MAX_IN_FLIGHT": "4"}) as server:

        async def scenario() -> tuple[list[httpx.Response], float]:
            flood = asyncio.create_task(post_all(server.url, [(flat(ACCEPTED), "image/png")] * 32))
            await asyncio.sleep(0.2)
            async with httpx.AsyncClient(base_url=server.url) as client:
                started = time.perf_counter()
                assert (await client.get("/livez")).status_code == 200
                waited = time.perf_counter() - started
            return await flood, waited

        answers, waited = asyncio.run(scenario())
        counts = Counter(a.status_code for a in answers)
        assert set(counts) == {200, 503}
        assert counts[200] >= 4
        assert all(a.headers["Retry-After"] for a in answers if a.status_code == 503)
        assert waited < 1


def head(url: str, *lines: str, target: str = "/diagnose") -> bytes:
    host = url.removeprefix("http://")
    return "\r\n".join([f"POST {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode(
        "latin-1"
    )


def test_a_large_body_is_refused_before_it_is_read(bundle: Path, tmp_path: Path) -> None:
    environment = {"LAZARET_MAX_FILE_BYTES": "100000", "LAZARET_BODY_SECONDS": "0.5"}
    with server_process(serve(bundle), tmp_path, environment) as server:
        address = server.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1])), 5) as connection:
            connection.sendall(head(server.url, "Content-Length: 67108864"))  # and no body yet
            assert connection.recv(4096).startswith(b"HTTP/1.1 413")
            for _ in range(8):  # a sender that is already sending is heard out, not reset
                connection.sendall(bytes(100_000))
        with socket.create_connection((address[0], int(address[1])), 5) as connection:
            connection.sendall(head(server.url, "Transfer-Encoding: chunked"))
            for _ in range(3):
                connection.sendall(b"C350\r\n" + bytes(50_000) + b"\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 413")
        with socket.create_connection((address[0], int(address[1])), 5) as connection:
            connection.sendall(head(server.url, "Content-Length: 1000") + b"slow")
            assert connection.recv(4096).startswith(b"HTTP/1.1 408")
        with socket.create_connection((address[0], int(address[1])), 5) as connection:
            # bytes that are no UTF-8 where text is expected
            lines = (
                "Content-Length: 0",
                "Authorization: Bearer \xff",
                "Content-Type: \xff;\xff=\xfe",
            )
            connection.sendall(head(server.url, *lines, target="/diagnose?model=%FF"))
            assert connection.recv(4096).startswith(b"HTTP/1.1 404")
        big = httpx.post(f"{server.url}/diagnose", content=bytes(64 * 2**20), timeout=20)
        assert big.status_code == 413
        assert Counter(on_record(server.database).values()) == {413: 3, 408: 1, 404: 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("manifest.json", "manifest.json"),
        ("guard.onnx", "SHA-256"),
        (None, "API keys"),
    ],
)
def test_what_must_not_be_served_is_a_sentence(
    bundle: Path, tmp_path: Path, change: str | None, words: str
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes() + (b"x" if file.name == change else b""))
    host = [] if change else ["--host", "0.0.0.0"]
    found = subprocess.run(
        [sys.executable, *serve(copy), *host], capture_output=True, text=True, cwd=tmp_path
    )
    assert found.returncode == 2
    assert words in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


def test_a_taken_port_is_a_sentence(bundle: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = subprocess.run(
            [sys.executable, *serve(bundle), "--port", port],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
    assert found.returncode == 2
    assert f"port {port}" in found.stderr


def test_small_answers_are_not_delayed() -> None:
    # asyncio sets TCP_NODELAY only on sockets made with this protocol; without it an answer on
    # a kept-alive connection takes 40 ms longer.
    with bind("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP
