"""``lazaret serve``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.sentence import told

if TYPE_CHECKING:
    from service.settings import Settings

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
    dicom_port: Annotated[
        int | None, typer.Option(help="Port on which to receive DICOM (C-STORE) as well.")
    ] = None,
    database: Annotated[str | None, typer.Option(help="SQLAlchemy URL of the records.")] = None,
    provider: Annotated[
        str | None, typer.Option(help="What runs the graph: cpu, cuda or tensorrt.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that answer on the port, each with an engine.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Answer POST /diagnose with one or more bundles.

    Every option can also be set in the environment or a TOML file, and more of them: see
    docs/settings.md. Stop it with Ctrl-C or SIGTERM; what was taken is answered first. Exit
    status: 0 stopped, 2 refused to start, 3 failed to start.
    """
    from service.logs import configure
    from service.settings import Settings

    with told():
        settings = Settings.load(
            bundles=bundle or None, host=host, port=port, grpc_port=grpc_port,
            dicom_port=dicom_port, database=database, provider=provider, workers=workers,
            log_level=log_level,
        )  # fmt: skip
        configure(settings.log_level)
        if settings.workers > 1:
            raise typer.Exit(_serve_together(settings))
        from service.app import create_app
        from service.server import run

        run(create_app(settings), settings)


def _serve_together(settings: Settings) -> int:
    """Several workers; the exit status."""
    from service.settings import SettingsProblem

    if settings.grpc_port == 0:
        raise SettingsProblem("setting grpc_port: workers share a port, so name one other than 0")
    with TemporaryDirectory(prefix="lazaret-metrics-") as folder:
        from service.metrics.shared import FOLDER, keep_values_as

        os.environ[FOLDER] = folder
        keep_values_as(0)  # the parent counts too
        from service.app import create_app, load_late
        from service.server import bind, reserve, run
        from service.workers import Workers, for_one_worker

        with reserve(settings.host, settings.port) as holding:
            host, port = holding.getsockname()[:2]
            own = for_one_worker(settings)

            def answer(place: int, started: Callable[[], object]) -> int:
                try:
                    with told():
                        app = create_app(own, leads=place == 1)
                        run(app, own, bind(host, port, shared=True), started)
                except typer.Exit as refused:
                    return refused.exit_code
                return 0

            load_late()
            return Workers(settings, answer).run()
