"""``lazaret pacs routes``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.cli.sentence import refuse, told
from service.settings import Settings

app = typer.Typer(help="Look at the route table.", no_args_is_help=True)


@app.command(
    "test",
    epilog="Example: lazaret pacs routes test scan.dcm --routes pacs.yaml --calling-ae CR_ROOM_1",
)
def explain(
    file: Annotated[Path, typer.Argument(help="A DICOM file.")],
    routes: Annotated[
        Path | None, typer.Option(help="The route table; default: the setting pacs_routes.")
    ] = None,
    calling_ae: Annotated[str, typer.Option(help="Who would send it.")] = "",
    called_ae: Annotated[str, typer.Option(help="What we would be called.")] = "",
) -> None:
    """Say which route would take a file, and why; nothing is sent.

    Exit status: 0 said, 2 the table or the file cannot be read.
    """
    from service.pacs.attributes import traits_of
    from service.pacs.route_file import load
    from service.pacs.routes import choose

    with told():
        chosen_file = routes or Settings.load().pacs_routes
        if chosen_file is None:
            refuse("There is no route table: give --routes, or set LAZARET_PACS_ROUTES.")
        table = load(chosen_file)
    try:
        data = file.read_bytes()
    except OSError as error:
        refuse(f"{file}: {error.strerror or error}")
    traits = traits_of(data, calling_ae, called_ae)
    choice = choose(table, traits)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    said = ", ".join(
        f"{name.replace('_', ' ')} {getattr(traits, name) or '(none)'}"
        for name in type(traits).__slots__
    )
    console.print(f"{file}: {said}")
    looks = Table(show_header=False, box=None)
    for look in choice.looks:
        looks.add_row("taken" if look.taken else "passed", look.route, look.why)
    console.print(looks)
    handling = choice.handling
    console.print(f"model: {handling.model or 'the only one loaded'}")
    console.print(f"destinations: {', '.join(handling.destinations) or 'none'}")
    console.print(f"original: {handling.original.value}")
    for verdict in ("accept", "flag", "reject"):
        objects = ", ".join(getattr(handling.emit, verdict)) or "nothing"
        console.print(f"on {verdict}: {objects}")
