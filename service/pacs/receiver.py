"""The Storage SCP: C-ECHO and C-STORE, and nothing else.

An instance is acknowledged (0000) when the spool has it. Suspicious pixels are no reason to
refuse: a failure makes senders try for ever, so what the guard thinks comes later.
"""

from __future__ import annotations

import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, cast
from uuid import uuid4

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.events import Event

from service.pacs.callers import Callers
from service.pacs.implementation import CLASS_UID, VERSION_NAME
from service.pacs.link import StorageServer
from service.pacs.link_limits import Fault, LinkLimits
from service.pacs.received import Protocol, Received, is_uid
from service.pacs.sop_classes import offered
from service.pacs.spool import Spool
from service.pacs.spool_entry import SpoolProblem
from service.pacs.storage_association import StorageAssociation
from service.pacs.take_in import Outcome, take_in
from service.pacs.tally import Tally
from service.pacs.write_behind import WriteBehind
from service.settings import SettingsProblem

SUCCESS: Final = 0x0000
STATUS: Final = {
    Outcome.STORED: SUCCESS,
    Outcome.NOT_IMAGE: SUCCESS,
    Outcome.DUPLICATE: SUCCESS,
    Outcome.MALFORMED: 0xC000,  # cannot understand
    Outcome.MISMATCH: 0xA900,  # data set does not match SOP class
    Outcome.FULL: 0xA700,  # out of resources
    Outcome.FAILED: 0x0110,  # processing failure
}
"""PS3.4 section B.2.3 and PS3.7 annex C."""
INVALID_INSTANCE: Final = 0x0117
# Result, source, reason (PS3.8 section 9.3.4).
_CALLING_UNKNOWN: Final = (1, 1, 3)
_NO_ROOM: Final = (2, 3, 2)
_REASONS: Final = {
    Fault.HANDSHAKE: "certificate",
    Fault.TOO_MANY: "limit",
    Fault.NOT_DICOM: "structure",
    Fault.PDU_TOO_LARGE: "size",
    Fault.TOO_SLOW: "limit",
    Fault.CUT_SHORT: "structure",
    Fault.INSTANCE_TOO_LARGE: "size",
    Fault.NO_MEMORY: "limit",
    Fault.MALFORMED: "structure",
}


@dataclass(frozen=True, slots=True)
class ReceiverConfig:
    """How to listen."""

    host: str
    port: int
    ae_title: str
    callers: Callers
    tls: ssl.SSLContext | None = None
    limits: LinkLimits = field(default_factory=LinkLimits)
    flush_each: bool = True
    """Wait for the disk at each instance, not at the end of its association."""


class Receiver:
    """Listens from ``start`` to ``stop``."""

    def __init__(self, config: ReceiverConfig, spool: Spool, tally: Tally) -> None:
        self._config = config
        self._spool = spool
        self._tally = tally
        self._behind = None if config.flush_each else WriteBehind(spool)
        self._server: StorageServer | None = None
        self._ae = _entity(config)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Listen. Raises ``SettingsProblem``."""
        config = self._config
        try:
            self._server = StorageServer(
                self._ae,
                (config.host, config.port),
                limits=config.limits,
                tls=config.tls,
                fault=self._fault,
                handlers=(
                    (evt.EVT_REQUESTED, self._requested),
                    (evt.EVT_ACCEPTED, self._accepted),
                    (evt.EVT_REJECTED, self._rejected),
                    (evt.EVT_ABORTED, self._aborted),
                    (evt.EVT_RELEASED, self._released),
                    (evt.EVT_C_ECHO, _echo),
                    (evt.EVT_C_STORE, self._store),
                ),
            )
        except OSError as error:
            raise SettingsProblem(
                f"cannot listen on {config.host} port {config.port} for DICOM: "
                f"{error.strerror or error}; stop what uses it or give another --dicom-port"
            ) from None
        threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="dicom", daemon=True
        ).start()
        structlog.get_logger().info(
            "listening for dicom", host=config.host, port=self.port, ae_title=config.ae_title
        )

    def stop(self, seconds: float = 10.0) -> None:
        """Take no more associations; let those that are open end, then abort them."""
        server = self._server
        if server is None:
            return
        self._server = None
        with suppress(ValueError, OSError):
            self._ae._servers.append(server)  # where its shutdown looks for itself
            server.shutdown()
        until = time.monotonic() + seconds
        while (open_ := server.active_associations) and time.monotonic() < until:
            time.sleep(0.05)
        for association in open_:
            association.abort()
        if self._behind is not None:
            self._behind.close()

    # Associations

    def _requested(self, event: Event) -> None:
        association = cast(StorageAssociation, event.assoc)
        request = association.requestor.primitive
        assert request is not None
        refusal = self._config.callers.refuse(
            str(request.calling_ae_title or "").strip(), association.peer.certificate
        )
        if refusal is not None:
            self._reject(association, refusal, _CALLING_UNKNOWN)
        elif self._spool.free_bytes() <= 0:
            self._reject(association, "full", _NO_ROOM)

    def _reject(
        self, association: StorageAssociation, reason: str, answer: tuple[int, int, int]
    ) -> None:
        association.acse.send_reject(*answer)
        self._tally.rejected(reason)
        self._tally.association("", "rejected")
        association.kill()  # returns once the answer is sent

    def _rejected(self, event: Event) -> None:
        """pynetdicom has: another called title, or too many associations."""
        called = str(cast(Any, event.assoc.requestor.primitive).called_ae_title or "").strip()
        self._tally.rejected("called_ae" if called != self._config.ae_title else "limit")
        self._tally.association("", "rejected")

    def _accepted(self, event: Event) -> None:
        cast(StorageAssociation, event.assoc).id = uuid4().hex
        self._tally.association(_calling(event), "accepted")

    def _aborted(self, event: Event) -> None:
        self._tally.association(_calling(event), "aborted")

    def _released(self, event: Event) -> None:
        """Before the release is answered."""
        if self._behind is not None:
            try:
                self._behind.flush()
            except SpoolProblem:
                event.assoc.abort()

    def _fault(self, fault: Fault) -> None:
        self._tally.rejected(_REASONS[fault])

    # Instances

    def _store(self, event: Event) -> Dataset:
        association = cast(Any, event.assoc)
        request = cast(Any, event.request)
        sop_class, sop_instance = (
            str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        )  # fmt: skip
        received = Received(
            protocol=Protocol.DIMSE,
            calling=_calling(event),
            called=self._config.ae_title,
            address=association.peer.address,
            association=association.id,
            at=datetime.now(UTC),
            transfer_syntax=str(event.context.transfer_syntax),
            sop_class=sop_class,
            sop_instance=sop_instance,
            certificate=association.peer.certificate,
        )
        if not (is_uid(sop_class) and is_uid(sop_instance)):
            self._tally.instance(received, "refused", 0, "uid")
            return _status(INVALID_INSTANCE, "The command has no valid SOP Instance UID")
        dataset = event.encoded_dataset(include_meta=False)
        sync = None if self._behind is None else self._behind.hand
        taken = take_in(dataset, received, self._spool, self._tally, sync=sync)
        return _status(STATUS[taken.outcome], taken.sentence)


def _entity(config: ReceiverConfig) -> ApplicationEntity:
    ae = ApplicationEntity(config.ae_title)
    ae.implementation_class_uid = cast(Any, CLASS_UID)
    ae.implementation_version_name = VERSION_NAME
    ae.require_called_aet = True
    ae.maximum_pdu_size = config.limits.pdu_bytes
    ae.maximum_associations = config.limits.associations
    ae.network_timeout = config.limits.idle_seconds
    ae.acse_timeout = config.limits.connect_seconds
    for sop_class, syntaxes in offered():
        ae.add_supported_context(sop_class, list(syntaxes))
    return ae


def _echo(event: Event) -> int:  # noqa: ARG001  pynetdicom's signature
    return SUCCESS


def _calling(event: Event) -> str:
    return str(event.assoc.requestor.ae_title or "").strip()


def _status(status: int, sentence: str) -> Dataset:
    answer = Dataset()
    answer.Status = status
    if sentence:
        answer.ErrorComment = sentence
    return answer
