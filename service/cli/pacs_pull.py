"""``lazaret pacs pull``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.cli.sentence import refuse, told
from service.settings import Settings

EXAMPLE = (
    "Example: lazaret pacs pull archive --query ModalitiesInStudy=CR --query StudyDate=20260101-"
)


def pull(
    peer: Annotated[
        str, typer.Argument(help="A dicomweb peer of the route table, or the URL of its root.")
    ],
    query: Annotated[
        list[str] | None, typer.Option(help="DICOM keyword=value; repeat it. Default: everything.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most studies.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Fetch also what was received before.")
    ] = False,
    routes: Annotated[
        Path | None, typer.Option(help="The route table; default: the setting pacs_routes.")
    ] = None,
) -> None:
    """Fetch studies from a DICOMweb archive into the spool, where a running node judges them.

    Cut it off at any time; called again it goes on with what is missing. Exit status: 0 all
    fetched, 1 some were not, 2 the archive cannot be searched.
    """
    if find_spec("pynetdicom") is None or find_spec("yaml") is None:
        refuse("DICOM needs `pip install 'lazaret[pacs]'`")
    from pydantic import ValidationError

    from service.logs import configure
    from service.metrics import Metrics
    from service.pacs.dicomweb import client_of
    from service.pacs.peers import DicomwebPeer, PeerProblem
    from service.pacs.pull import Archive, Pulled, PullProblem, host_of, pull, query_of
    from service.pacs.route_file import load
    from service.pacs.spool import Spool
    from service.pacs.spool_entry import SpoolProblem
    from service.pacs.tally import Tally

    configure("error")
    with told():
        settings = Settings.load()
        table = routes or settings.pacs_routes
        peers = load(table).peers if table else {}
    if "://" in peer:
        try:
            archive = DicomwebPeer(kind="dicomweb", url=peer)
        except ValidationError:
            refuse(f"{peer}: write the root of a DICOMweb service, such as https://host/dicom-web")
    else:
        found = peers.get(peer)
        if not isinstance(found, DicomwebPeer):
            known = ", ".join(k for k, v in peers.items() if isinstance(v, DicomwebPeer))
            refuse(f"{peer}: there is no dicomweb peer of that name; there are: {known or 'none'}")
        archive = found
    tally = Tally(Metrics(), [peer])
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    try:
        spool = Spool(
            settings.spool, reserve_bytes=settings.spool_reserve_bytes, alarm=tally.reused
        )
        with client_of(archive) as client, _bar(console) as progress:
            task = progress.add_task("instances", total=None, studies=0)

            def show(state: Pulled) -> None:
                progress.update(
                    task, completed=state.handled, total=state.found, studies=state.studies
                )

            state = pull(
                Archive(client, settings.dicom_instance_bytes), peer, query_of(query or []), spool,
                tally, address=host_of(archive.url), limit=limit, again=again, told=show,
                failed=lambda sentence: console.print(f"not kept: {sentence}", style="red"),
            )  # fmt: skip
        spool.close()
    except (PullProblem, PeerProblem, SpoolProblem) as problem:
        refuse(f"{peer}: {problem}; what was fetched before is kept")
    print(
        f"{peer}: {state.studies} studies, {state.found} instances: {state.kept} fetched, "
        f"{state.known} known, {state.failed} not kept"
    )
    if state.failed:
        print("call it again to fetch what is missing")
    raise typer.Exit(1 if state.failed else 0)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.fields[studies]} studies"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.description}"), TimeRemainingColumn(), console=console, transient=True,
    )  # fmt: skip
