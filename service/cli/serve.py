"""``lazaret serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.sentence import told

EXAMPLE = "Example: lazaret serve --bundle bundles/chest-xray --port 8000"


def serve(
    bundle: Annotated[
        list[Path] | None, typer.Option(help="A bundle folder; repeat it to serve several models.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. Without API keys, loopback only.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Port for the inference protocol over gRPC.")
    ] = None,
    database: Annotated[str | None, typer.Option(help="SQLAlchemy URL of the records.")] = None,
    provider: Annotated[
        str | None, typer.Option(help="What runs the graph: cpu, cuda or tensorrt.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Answer POST /diagnose with one or more bundles.

    Every option can also be set in the environment or a TOML file, and more of them: see
    docs/settings.md. Stop it with Ctrl-C or SIGTERM; what was taken is answered first. Exit
    status: 0 stopped, 2 refused to start, 3 failed to start.
    """
    from service.app import create_app
    from service.logs import configure
    from service.server import run
    from service.settings import Settings

    with told():
        settings = Settings.load(
            bundles=bundle or None, host=host, port=port, grpc_port=grpc_port,
            database=database, provider=provider, log_level=log_level,
        )  # fmt: skip
        configure(settings.log_level)
        run(create_app(settings), settings)
