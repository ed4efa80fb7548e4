"""``lazaret pacs echo`` and ``send``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from service.cli.sentence import refuse, told
from service.settings import Settings

if TYPE_CHECKING:
    from service.pacs.peers import DimsePeer

ECHO_EXAMPLE = "Example: lazaret pacs echo archive  or: lazaret pacs echo ORTHANC@127.0.0.1:4242"
SEND_EXAMPLE = "Example: lazaret pacs send archive scans/*.dcm"
_PEER_HELP = "A dimse peer of the route table, or AE_TITLE@HOST:PORT."
_ROUTES_HELP = "The route table; default: the setting pacs_routes."
_CALLING_HELP = "Our AE title, where the peer is not of the table."


def echo(
    peer: Annotated[str, typer.Argument(help=_PEER_HELP)],
    routes: Annotated[Path | None, typer.Option(help=_ROUTES_HELP)] = None,
    calling: Annotated[str, typer.Option(help=_CALLING_HELP)] = "LAZARET",
) -> None:
    """Ask a peer whether it is there (C-ECHO).

    Exit status: 0 it answers, 1 it does not, 2 there is no such peer.
    """
    chosen = _peer(peer, routes, calling)
    from service.pacs import by_hand
    from service.pacs.peers import PeerProblem

    console = Console(highlight=False, soft_wrap=True, markup=False)
    try:
        by_hand.echo(chosen)
    except PeerProblem as problem:
        console.print(f"{peer}: {problem}", style="red")
        raise typer.Exit(1) from None
    console.print(f"{peer}: answers")


def send(
    peer: Annotated[str, typer.Argument(help=_PEER_HELP)],
    files: Annotated[list[Path], typer.Argument(help="DICOM files.")],
    routes: Annotated[Path | None, typer.Option(help=_ROUTES_HELP)] = None,
    calling: Annotated[str, typer.Option(help=_CALLING_HELP)] = "LAZARET",
) -> None:
    """Send DICOM files to a peer as they are (C-STORE).

    Exit status: 0 all stored, 1 some were not, 2 there is no such peer.
    """
    chosen = _peer(peer, routes, calling)
    from service.pacs import by_hand
    from service.pacs.peers import PeerProblem

    console = Console(highlight=False, soft_wrap=True, markup=False)
    failed = 0
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("sending", total=len(files))

        def tell(result: by_hand.Sent) -> None:
            nonlocal failed
            progress.advance(task)
            if not result.good:
                failed += 1
                console.print(f"{result.path}: {result.sentence}", style="red")

        try:
            results = by_hand.send(chosen, files, tell)
        except PeerProblem as problem:
            console.print(f"{peer}: {problem}", style="red")
            raise typer.Exit(1) from None
    console.print(f"{peer}: {len(results) - failed} of {len(files)} stored")
    raise typer.Exit(1 if failed else 0)


def _peer(name: str, routes: Path | None, calling: str) -> DimsePeer:
    """The peer of that name or address; exit status 2 without one."""
    if find_spec("pynetdicom") is None or find_spec("yaml") is None:
        refuse("DICOM needs `pip install 'lazaret[pacs]'`")
    from pydantic import ValidationError

    from service.pacs.peers import DimsePeer
    from service.pacs.route_file import load

    title, at, address = name.rpartition("@")
    if at:
        host, _, port = address.rpartition(":")
        try:
            return DimsePeer.model_validate(
                {"kind": "dimse", "ae_title": title, "host": host.strip("[]"), "port": port,
                 "calling_ae_title": calling}
            )  # fmt: skip
        except ValidationError:
            refuse(f"{name}: write AE_TITLE@HOST:PORT")
    with told():
        table = routes or Settings.load().pacs_routes
        if table is None:
            refuse(f"{name}: write AE_TITLE@HOST:PORT, or name a route table with --routes")
        peers = load(table).peers
    found = peers.get(name)
    if not isinstance(found, DimsePeer):
        known = ", ".join(key for key, value in peers.items() if isinstance(value, DimsePeer))
        refuse(f"{name}: {table} has no dimse peer of that name; it has: {known or 'none'}")
    return found
