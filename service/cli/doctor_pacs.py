"""What ``lazaret doctor`` says of the PACS side: receiving here, and every configured peer."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from service.cli.finding import Finding
from service.metrics import Metrics
from service.server import bind
from service.settings import Settings, SettingsProblem

NEEDS = "needs `pip install 'lazaret[pacs]'`"


def examine_pacs(settings: Settings) -> Iterator[Finding]:
    """Look at what is configured; nothing where nothing is."""
    if settings.dicom_port is None:
        yield Finding("dicom", None, "not received: give --dicom-port, or set LAZARET_DICOM_PORT")
    else:
        yield _receiving(settings, settings.dicom_port)
    if settings.pacs_routes is not None:
        yield from _peers(settings)


def _receiving(settings: Settings, port: int) -> Finding:
    if find_spec("pynetdicom") is None:
        return Finding("dicom", False, NEEDS)
    from service.pacs.node import Node

    try:
        bind(settings.dicom_host, port).close()
        node = Node(settings, Metrics())
        held = node.spool.held()
        node.close()
    except SettingsProblem as problem:
        return Finding("dicom", False, str(problem))
    if held.free_bytes <= 0:
        return Finding(
            "dicom", False,
            f"{settings.spool}: its disk is as full as spool_reserve_bytes allows; make room",
        )  # fmt: skip
    tls = "TLS" if settings.dicom_tls_certificate else "no TLS"
    callers = f"{len(settings.dicom_callers)} callers" if settings.dicom_callers else "anyone"
    return Finding(
        "dicom", True,
        f"{settings.dicom_ae_title} at {settings.dicom_host}:{port} ({tls}, {callers}); spool "
        f"{settings.spool}: {held.waiting} wait, {held.aside} set aside, "
        f"{held.free_bytes / 2**30:.0f} GB free",
    )  # fmt: skip


def _peers(settings: Settings) -> Iterator[Finding]:
    assert settings.pacs_routes is not None
    if find_spec("pynetdicom") is None or find_spec("yaml") is None:
        yield Finding("routes", False, f"{settings.pacs_routes}: {NEEDS}")
        return
    from service.pacs.by_hand import echo
    from service.pacs.peers import DicomwebPeer, DimsePeer, PeerProblem
    from service.pacs.route_file import load

    try:
        table = load(settings.pacs_routes)
    except SettingsProblem as problem:
        yield Finding("routes", False, str(problem))
        return
    yield Finding("routes", True, f"{settings.pacs_routes}: {len(table.routes)} routes")
    for name, peer in table.peers.items():
        subject = f"peer {name}"
        try:
            if isinstance(peer, DimsePeer):
                echo(peer)
                yield Finding(
                    subject, True, f"{peer.ae_title} at {peer.host}:{peer.port} answers C-ECHO"
                )
            elif isinstance(peer, DicomwebPeer):
                yield _dicomweb(subject, peer)
        except PeerProblem as problem:
            yield Finding(subject, False, str(problem))


def _dicomweb(subject: str, peer: object) -> Finding:
    import httpx

    from service.pacs.dicomweb import client_of
    from service.pacs.peers import DicomwebPeer

    assert isinstance(peer, DicomwebPeer)
    try:
        with client_of(peer) as client:
            status = client.get("/studies", params={"limit": "1"}).status_code
    except httpx.HTTPError as error:
        return Finding(subject, False, f"{peer.url} does not answer ({type(error).__name__})")
    if status in (401, 403):
        return Finding(subject, False, f"{peer.url} wants another authorization_file ({status})")
    if status not in (200, 204):
        return Finding(subject, False, f"{peer.url}/studies answers {status}; is it the root?")
    return Finding(subject, True, f"{peer.url} answers QIDO-RS")
