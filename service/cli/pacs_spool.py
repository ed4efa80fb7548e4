"""``lazaret pacs spool``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.cli.sentence import refuse, told
from service.settings import Settings

EXAMPLE = "Example: lazaret pacs spool  or: lazaret pacs spool --restore all"
MOST_SHOWN = 100


def spool(
    restore: Annotated[
        str | None,
        typer.Option(help="Let what was set aside wait again: a number of the list, or all."),
    ] = None,
) -> None:
    """Show what waits and what was set aside, and why.

    Exit status: 0 shown, 2 the spool cannot be used or has nothing of that number.
    """
    from service.pacs.spool import Spool
    from service.pacs.spool_entry import SpoolProblem

    with told():
        settings = Settings.load()
    if not settings.spool.is_dir():
        refuse(f"{settings.spool}: there is no spool; set LAZARET_SPOOL to the node's")
    try:
        opened = Spool(settings.spool, reserve_bytes=settings.spool_reserve_bytes)
        aside = list(opened.set_aside_entries())
        if restore is not None:
            chosen = [e for e in aside if restore in ("all", str(e.sequence))]
            if restore != "all" and not chosen:
                refuse(f"{restore}: nothing of that number was set aside")
            for entry in chosen:
                opened.restore(entry)
            aside = [entry for entry in aside if entry not in chosen]
        held = opened.held()
        opened.close()
    except SpoolProblem as problem:
        refuse(str(problem))
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(
        f"{settings.spool}: {held.waiting} wait, {held.aside} set aside, {held.bytes:,} bytes, "
        f"{held.free_bytes:,} bytes free"
    )
    if aside:
        table = Table("number", "received", "by", "from", "bytes", "why", box=None)
        for entry in aside[:MOST_SHOWN]:
            received = entry.received
            table.add_row(
                str(entry.sequence),
                received.at.isoformat(timespec="seconds"),
                received.protocol,
                received.calling,
                str(entry.size),
                entry.reason or "",
            )
        console.print(table)
    if len(aside) > MOST_SHOWN:
        console.print(f"and {len(aside) - MOST_SHOWN} more")
