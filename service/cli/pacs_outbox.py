"""``lazaret pacs outbox`` and ``lazaret pacs redrive``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.cli.sentence import told
from service.settings import Settings

Database = Annotated[
    str | None, typer.Option(help="SQLAlchemy URL of the records; default: the setting database.")
]


def outbox(database: Database = None) -> None:
    """Show what is not delivered yet, and dead letters with why.

    Exit status: 0 nothing is given up, 1 there are dead letters, 2 the database cannot be used.
    """
    from service.pacs.outbox import Outbox
    from service.records import connect, migrate

    with told():
        engine = connect(database or Settings.load().database)
        migrate(engine)
    box = Outbox(engine)
    now, console = datetime.now(UTC), Console(highlight=False)
    counts, dead = box.counts(), box.dead()
    engine.dispose()
    if not counts:
        console.print("Everything is delivered.")
        return
    table = Table("destination", "state", "objects", "oldest", box=None)
    for count in counts:
        again = ", tried before" if count.tried else ""
        minutes = (now - count.oldest).total_seconds() / 60
        table.add_row(
            count.destination, f"{count.state}{again}", str(count.objects), f"{minutes:.0f} min"
        )
    console.print(table)
    if dead:
        letters = Table("dead letter", "destination", "object", "why", "attempts", box=None)
        for row in dead:
            letters.add_row(
                str(row["id"]), row["destination"], row["object"], row["problem"],
                str(row["attempts"]),
            )  # fmt: skip
        console.print(letters)
        console.print("Mend the cause, then: lazaret pacs redrive")
        raise typer.Exit(1)


def redrive(
    destination: Annotated[
        str | None, typer.Argument(help="A peer's name; without it, all of them.")
    ] = None,
    database: Database = None,
) -> None:
    """Try dead letters again. A running node sends them within a second or two.

    Exit status: 0 done, 2 the database cannot be used.
    """
    from service.pacs.outbox import Outbox
    from service.records import connect, migrate

    with told():
        engine = connect(database or Settings.load().database)
        migrate(engine)
    revived = Outbox(engine).redrive(destination, datetime.now(UTC))
    engine.dispose()
    Console(highlight=False).print(f"{revived} dead letters wait to be sent again.")
