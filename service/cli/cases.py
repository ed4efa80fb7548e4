"""``lazaret cases list``, ``show``, ``claim``, ``release``, ``confirm``: reviews by the terminal.

They ask the running service, which records and counts what is decided.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from service.case_states import Event, State
from service.cli.sentence import refuse, told
from service.settings import Settings

app = typer.Typer(help="Decide on held images.", no_args_is_help=True)

Url = Annotated[
    str | None,
    typer.Option(envvar="LAZARET_URL", help="The service; default: the settings' port, here."),
]
Key = Annotated[
    str | None,
    typer.Option(envvar="LAZARET_KEY", help="API key of a reviewer, best by the environment."),
]
Case = Annotated[str, typer.Argument(help="The case's id.")]
Cases = Annotated[list[str], typer.Argument(help="Ids of cases.")]
Note = Annotated[str | None, typer.Option(help="Why, for whoever reads it later.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document a case.")]


@app.command("list", epilog="Example: lazaret cases list --state open")
def list_(
    state: Annotated[State | None, typer.Option(help="Only cases in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="The newest so many.")] = 50,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Show the newest cases.

    Exit status: 0 shown, 2 the service refuses or cannot be reached.
    """
    asked: dict[str, Any] = {"limit": limit} | ({} if state is None else {"state": str(state)})
    found = _ask("GET", "/cases", url, key, params=asked)
    if as_json:
        for case in found:
            print(json.dumps(case))
        return
    table = Table("case", "opened", "state", "model", "verdict", "why", "p-value", box=None)
    for case in found:
        p = (case["evidence"].get("guard") or {}).get("p_value")
        who = f" by {case['claimed_by']}" if case["claimed_by"] else ""
        table.add_row(
            case["case_id"], _age(case["opened_at"]), f"{case['state']}{who}", case["model"],
            case["verdict"], case["route"], "-" if p is None else f"{p:.2g}",
        )  # fmt: skip
    console = Console(highlight=False, markup=False)
    console.print(table if found else "No cases.", soft_wrap=True)


@app.command(epilog="Example: lazaret cases show 0b7c1f5e2d3a4968b1c2d3e4f5a6b7c8")
def show(case: Case, url: Url = None, key: Key = None) -> None:
    """Show one case as JSON: what fired and why, and every step of its review.

    Its file is at /cases/ID/image. Exit status: 0 shown, 2 there is none, or no service.
    """
    print(json.dumps(_ask("GET", f"/cases/{case}", url, key), indent=2))


@app.command(epilog="Example: lazaret cases claim 0b7c1f5e2d3a4968b1c2d3e4f5a6b7c8")
def claim(cases: Cases, note: Note = None, url: Url = None, key: Key = None) -> None:
    """Take cases, so that nobody else looks at them too; for eight hours.

    Exit status: 0 taken, 2 at least one was not.
    """
    _happen(Event.CLAIM, cases, note, url, key)


@app.command(epilog="Example: lazaret cases release 0b7c1f5e2d3a4968b1c2d3e4f5a6b7c8")
def release(cases: Cases, note: Note = None, url: Url = None, key: Key = None) -> None:
    """Decide that images were benign. `lazaret calibrate --from-records` learns from them.

    Exit status: 0 released, 2 at least one was not.
    """
    _happen(Event.RELEASE, cases, note, url, key)


@app.command(epilog="Example: lazaret cases confirm 0b7c1f5e2d3a4968b1c2d3e4f5a6b7c8")
def confirm(cases: Cases, note: Note = None, url: Url = None, key: Key = None) -> None:
    """Decide that holding images was right. Nothing is ever calibrated on them.

    Exit status: 0 confirmed, 2 at least one was not.
    """
    _happen(Event.CONFIRM, cases, note, url, key)


def _happen(
    event: Event, cases: list[str], note: str | None, url: str | None, key: str | None
) -> None:
    for case in cases:
        after = _ask("POST", f"/cases/{case}/{event}", url, key, json={"note": note})
        Console(highlight=False, soft_wrap=True).print(f"{case}: {after['state']}")


def _ask(method: str, path: str, url: str | None, key: str | None, **given: Any) -> Any:
    """The service's answer; its refusal is told as a sentence."""
    with told():
        base = url or f"http://127.0.0.1:{Settings.load().port}"
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        response = httpx.request(method, f"{base}{path}", headers=headers, timeout=30, **given)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        refuse(f"{base}: {error}; is the service running, and there? Say where with --url")
    if response.status_code == 200:
        return response.json()
    try:
        refuse(f"{path}: {response.json()['detail']}")
    except (ValueError, KeyError, TypeError):
        refuse(f"{base}: HTTP {response.status_code}, not an answer of Lazaret's")


def _age(opened: str) -> str:
    minutes = (datetime.now(UTC) - datetime.fromisoformat(opened)).total_seconds() / 60
    if minutes < 120:
        return f"{minutes:.0f} min ago"
    return f"{minutes / 60:.0f} h ago" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days ago"
