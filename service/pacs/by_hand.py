"""C-ECHO and C-STORE to a peer, for a person at a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event

from service.pacs.part10 import NotPart10, Parts, take_apart
from service.pacs.peers import DimsePeer, PeerProblem
from service.pacs.requestor import MOST_CONTEXTS, PDU_BYTES, entity, exchange
from service.pacs.sop_classes import VERIFICATION

_REASONS = {
    (1, 1, 3): "it does not know our AE title (calling); have it added there",
    (1, 1, 7): "that is not its AE title (called)",
    (2, 3, 2): "it takes no more associations now",
}


class NotAccepted(Exception):
    """The peer did not accept the object's SOP class in its transfer syntax."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one file."""

    path: Path
    status: int | None
    """The peer's (0000,0900); None when it was not sent."""
    sentence: str

    @property
    def good(self) -> bool:
        """Stored, perhaps with a warning (PS3.4 section B.2.3)."""
        return self.status is not None and (self.status == 0 or 0xB000 <= self.status <= 0xBFFF)


def echo(peer: DimsePeer) -> None:
    """Ask whether it is there. Raises ``PeerProblem``."""
    association = _associate(peer, [(VERIFICATION, "1.2.840.10008.1.2")])
    try:
        status = association.send_c_echo()
        if getattr(status, "Status", None) != 0:
            raise PeerProblem("it accepted the association and did not answer C-ECHO")
    finally:
        association.release()


def send(
    peer: DimsePeer, files: Sequence[Path], told: Callable[[Sent], None] = lambda _: None
) -> list[Sent]:
    """Send files as they are, in as few associations as their kinds allow.

    Raises:
        PeerProblem: no association, or it was lost; what was told of was sent.
    """
    results: list[Sent] = []
    readable: list[tuple[Path, tuple[str, str]]] = []

    def tell(result: Sent) -> None:
        results.append(result)
        told(result)

    for path in files:
        try:
            with path.open("rb") as file:
                parts = take_apart(file.read(2**17))
            readable.append((path, (parts.sop_class, parts.transfer_syntax)))
        except OSError as error:
            tell(Sent(path, None, str(error.strerror or error)))
        except NotPart10 as error:
            tell(Sent(path, None, f"not sent: {error}"))
    kinds = sorted({kind for _, kind in readable})
    for start in range(0, len(kinds), MOST_CONTEXTS):
        some = kinds[start : start + MOST_CONTEXTS]
        association = _associate(peer, some)
        try:
            for path, kind in readable:
                if kind in some:
                    tell(_send(association, path))
        finally:
            if association.is_established:
                association.release()
    return results


def store(association: Association, parts: Parts) -> Dataset:
    """C-STORE of a data set byte for byte, where pynetdicom would decode and encode it.

    Returns:
        The answer's status elements; empty when there was no answer, and then the association is
        aborted.

    Raises:
        NotAccepted: the peer takes no such object so encoded.
    """
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = parts.sop_class
    request.AffectedSOPInstanceUID = parts.sop_instance
    request.Priority = 0
    request.DataSet = BytesIO(parts.dataset)
    answer = exchange(association, request, _context(association, parts))
    return Dataset() if answer is None else association._check_received_status(answer)


def _context(association: Association, parts: Parts) -> int:
    for context in association.accepted_contexts:
        if (context.abstract_syntax, context.transfer_syntax[0]) == (
            parts.sop_class,
            parts.transfer_syntax,
        ):
            assert context.context_id is not None
            return context.context_id
    raise NotAccepted


def _send(association: Association, path: Path) -> Sent:
    try:
        answer = store(association, take_apart(path.read_bytes()))
    except NotAccepted:
        return Sent(path, None, "not sent: the peer does not take this SOP class so encoded")
    status = getattr(answer, "Status", None)
    if status is None:
        raise PeerProblem(f"the association was lost while {path} was sent")
    comment = str(getattr(answer, "ErrorComment", "") or "")
    words = "stored" if status == 0 else f"status {status:04X}"
    return Sent(path, int(status), f"{words}: {comment}" if comment else words)


def _associate(peer: DimsePeer, kinds: Sequence[tuple[str, str]]) -> Association:
    ae = entity(peer)
    for sop_class, syntax in kinds:
        ae.add_requested_context(sop_class, syntax)
    tls = None if peer.tls is None else (peer.tls.context(), peer.host)
    connected: list[Event] = []
    association = ae.associate(
        peer.host,
        peer.port,
        ae_title=peer.ae_title,
        max_pdu=PDU_BYTES,
        tls_args=tls,
        evt_handlers=[(evt.EVT_CONN_OPEN, connected.append)],
    )
    if association.is_established:
        return association
    if association.is_rejected:
        found = association.acceptor.primitive
        answer = (found.result, found.result_source, found.diagnostic) if found else None
        known = _REASONS.get(cast(Any, answer))
        raise PeerProblem(f"it rejected the association: {known or 'without a known reason'}")
    if connected:
        raise PeerProblem(
            "it ended the connection; does it speak TLS, or want a certificate, where we do not?"
        )
    raise PeerProblem(
        f"nothing answers at {peer.host} port {peer.port}"
        + (", or its certificate is not one that we trust" if tls else "")
    )
