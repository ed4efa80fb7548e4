"""C-STORE (PS3.4 annex B): the data sets go as they are, byte for byte, in their own transfer
syntax; only between the two native ones are they converted, for peers that take but one."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode, encode

from service.pacs.outbox import Item
from service.pacs.part10 import NotPart10, take_apart
from service.pacs.peers import DimsePeer, PeerProblem
from service.pacs.requestor import MOST_CONTEXTS, PDU_BYTES, entity, exchange
from service.pacs.senders.sender import Outcome, Sent, Unreachable

if TYPE_CHECKING:
    from service.pacs.peers import Tls

IMPLICIT: Final = "1.2.840.10008.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
"""PS3.5 annex A: what an uncompressed data set may be converted between without loss."""
EXPECTED_STATUS: Final = {0x0000, 0xB000, 0xB006, 0xB007}
"""Success, and success with a warning (PS3.4 section B.2.3)."""
_NEVER: Final = (0x0122, 0x0124, 0x0110 + 0x0007)  # class not supported, not authorised, bad UID


@dataclass(frozen=True, slots=True)
class _Instance:
    item: Item
    sop_class: str
    sop_instance: str
    syntax: str
    dataset: bytes


class DimseSender:
    """Opens one association for each group of objects."""

    def __init__(self, peer: DimsePeer) -> None:
        self._peer = peer

    def send(self, items: Sequence[Item]) -> Iterator[Sent]:
        """As ``Sender.send``."""
        instances = []
        for item in items:
            instance = _instance(item)
            if instance is None:
                yield Sent(item, Outcome.NEVER, "not-dicom")
            else:
                instances.append(instance)
        if not instances:
            return
        association = self._associate(instances)
        try:
            for number, instance in enumerate(instances, 1):
                yield _store(association, instance, number % 65_535 + 1)
        finally:
            if association.is_established:
                association.release()

    def close(self) -> None:
        """Nothing is kept open."""

    def _associate(self, instances: Sequence[_Instance]) -> Association:
        peer = self._peer
        ae = entity(peer)
        for sop_class, syntaxes in _contexts(instances):
            ae.add_requested_context(sop_class, syntaxes)
        association = ae.associate(
            peer.host, peer.port, ae_title=peer.ae_title, max_pdu=PDU_BYTES,
            tls_args=_tls(peer.tls, peer.host),
        )  # fmt: skip
        if not association.is_established:
            raise Unreachable("rejected" if association.is_rejected else "unreachable")
        return association


def _instance(item: Item) -> _Instance | None:
    try:
        parts = take_apart(item.parcel.content)
    except NotPart10:
        return None
    if not parts.sop_class or not parts.sop_instance:
        return None
    return _Instance(
        item, parts.sop_class, parts.sop_instance, parts.transfer_syntax, bytes(parts.dataset)
    )


def _contexts(instances: Sequence[_Instance]) -> list[tuple[str, list[str]]]:
    """One presentation context a SOP class and transfer syntax, so that each is answered alone."""
    wanted: dict[tuple[str, str], None] = {}
    for instance in instances:
        wanted[instance.sop_class, instance.syntax] = None
        if instance.syntax in (IMPLICIT, EXPLICIT):
            wanted[instance.sop_class, IMPLICIT] = None
            wanted[instance.sop_class, EXPLICIT] = None
    return [(sop_class, [syntax]) for sop_class, syntax in list(wanted)[:MOST_CONTEXTS]]


def _store(association: Association, instance: _Instance, number: int) -> Sent:
    accepted = {
        str(context.transfer_syntax[0]): context.context_id
        for context in association.accepted_contexts
        if context.abstract_syntax == instance.sop_class
    }
    syntax = next(
        (
            syntax
            for syntax in (instance.syntax, EXPLICIT, IMPLICIT)
            if syntax in accepted
            and (syntax == instance.syntax or instance.syntax in (EXPLICIT, IMPLICIT))
        ),
        None,
    )
    if syntax is None:
        return Sent(instance.item, Outcome.NEVER, "context-rejected")
    try:
        data = _converted(instance.dataset, instance.syntax, syntax)
    except Exception:  # a stranger's data set: whatever pydicom raises
        return Sent(instance.item, Outcome.NEVER, "not-convertible")
    request = C_STORE()
    request.MessageID = number
    request.Priority = 2  # low: nobody waits at a screen for it
    request.AffectedSOPClassUID = instance.sop_class
    request.AffectedSOPInstanceUID = instance.sop_instance
    request.DataSet = io.BytesIO(data)
    context = accepted[syntax]
    answer = None if context is None else exchange(association, request, context)
    if answer is None or answer.Status is None:
        raise Unreachable("no-answer")
    return Sent(instance.item, *_meaning(answer.Status))


def _meaning(status: int) -> tuple[Outcome, str | None]:
    """PS3.4 table B.2-1 and PS3.7 annex C."""
    if status in EXPECTED_STATUS:
        return Outcome.DELIVERED, None
    word = f"status-{status:04X}"
    if status in _NEVER or 0xA900 <= status <= 0xA9FF or 0xC000 <= status <= 0xCFFF:
        return Outcome.NEVER, word
    return Outcome.LATER, word


def _converted(dataset: bytes, syntax: str, wanted: str) -> bytes:
    if syntax == wanted:
        return dataset
    read = decode(io.BytesIO(dataset), syntax == IMPLICIT, True)
    written: bytes | None = encode(read, wanted == IMPLICIT, True)
    if written is None:
        raise ValueError("not convertible")
    return written


def _tls(tls: Tls | None, host: str) -> tuple[Any, str] | None:
    if tls is None:
        return None
    try:
        return tls.context(), host
    except PeerProblem:
        raise Unreachable("certificate-files") from None
