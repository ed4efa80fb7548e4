"""``lazaret pacs``."""

from __future__ import annotations

import typer

from service.cli import pacs_routes

app = typer.Typer(help="The PACS side: instances in, verdicts out.", no_args_is_help=True)
app.add_typer(pacs_routes.app, name="routes")
