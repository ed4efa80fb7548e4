"""``lazaret demo``."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from models.zoo import ZOO
from service.cli.sentence import refuse

EXAMPLE = "Example: lazaret demo --serve"
PHANTOM = ZOO / "phantom"
MEDIA_TYPES = {".png": "image/png", ".dcm": "application/dicom"}
READY_WITHIN = 60  # seconds; a slow disk reads the runtime's library for a while


def demo(
    serve: Annotated[bool, typer.Option("--serve", help="Keep serving until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(help="Port to serve on; 0 takes a free one.")] = 0,
) -> None:
    """Start the service on the chest phantom and send it clean, degraded and attacked images.

    Needs no network, no data and no torch. The images were made ahead by `lazaret phantom
    demo-images`, which takes the first attacks that succeed, whatever the guard says of them.
    """
    port = port or _free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "service", "serve", "--bundle", str(PHANTOM / "bundle"),
            "--host", "127.0.0.1", "--port", str(port), "--log-level", "error",
            "--database", f"sqlite:///{folder}/records.sqlite3",
        ]  # fmt: skip
        server = subprocess.Popen(command)  # noqa: S603  # our own interpreter and arguments
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                started = time.perf_counter()
                _wait_until_ready(client, server)
                ready = time.perf_counter() - started
                _show(client, ready)
            if serve:
                Console().print(
                    f"Serving on http://127.0.0.1:{port}, API at /docs. Ctrl-C stops it.\n"
                    f"Try: curl -F image=@{PHANTOM / 'demo'}/attacked-1.png "
                    f"http://127.0.0.1:{port}/diagnose",
                    soft_wrap=True,
                    highlight=False,
                )
                server.wait()
        except KeyboardInterrupt:
            pass
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(client: httpx.Client, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        if server.poll() is not None:
            refuse("the service did not start; run `lazaret doctor` to see what is missing")
        try:
            if client.get("/readyz").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    refuse(f"the service was not ready within {READY_WITHIN} s; run `lazaret doctor`")


def _show(client: httpx.Client, ready: float) -> None:
    folder = PHANTOM / "demo"
    entries: list[dict[str, Any]] = json.loads((folder / "demo.json").read_text())["images"]
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("file", "what it is", "verdict", "route", "p", "model says", "ms"):
        table.add_column(heading, no_wrap=True)
    held: dict[str, list[bool]] = {}
    for entry in entries:
        path = folder / entry["file"]
        answer = _send(client, path)
        accepted = answer["verdict"] == "accept"
        held.setdefault(entry["kind"], []).append(not accepted)
        colour = "green" if accepted == (entry["kind"] != "attacked") else "red"
        before, after = entry["before"], entry["after"]
        table.add_row(
            path.name,
            entry["what"],
            f"[{colour}]{answer['verdict']}[/]",
            answer["route"] or "",
            f"{answer['guard']['p_value']:.4f}",
            before if before == after else f"{before}→[bold]{after}[/]",
            f"{answer['timing_ms']['total']:.1f}",
        )
    console = Console()
    console.print(table)
    console.print(_sentence(held, ready), soft_wrap=True, highlight=False)


def _send(client: httpx.Client, path: Path) -> dict[str, Any]:
    response = client.post(
        "/diagnose",
        content=path.read_bytes(),
        headers={"Content-Type": MEDIA_TYPES[path.suffix]},
    )
    if response.status_code != httpx.codes.OK:
        refuse(f"{path.name}: the service answered {response.status_code}: {response.text}")
    answer: dict[str, Any] = response.json()
    return answer


def _sentence(held: dict[str, list[bool]], ready: float) -> str:
    def share(kind: str, want_held: bool) -> str:
        flags = held.get(kind, [])
        return f"{sum(flag == want_held for flag in flags)} of {len(flags)}"

    return (
        f"Ready in {ready:.1f} s. {share('clean', False)} clean and {share('degraded', False)} "
        f"degraded images were accepted; {share('attacked', True)} attacked images, each of which "
        "changes the model's answer by at most four grey levels a pixel, were held with a case."
    )
