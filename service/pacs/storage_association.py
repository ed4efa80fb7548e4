"""An association that we accept: pynetdicom's, with messages of bounded size and without its busy
loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA

from service.pacs.link_limits import COMMAND_BYTES, Fault, Held, LinkLimits, Peer
from service.pacs.upper_layer import IDLE_SECONDS, Calling, UpperLayer

if TYPE_CHECKING:
    from service.pacs.link import StorageServer


class _Dimse(DIMSEServiceProvider):
    """Messages of bounded size."""

    def __init__(self, assoc: StorageAssociation) -> None:
        super().__init__(assoc)
        self._storage = assoc
        self.msg_queue = Calling(assoc.work.set)
        self._command_bytes = 0
        self._dataset_bytes = 0

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Add what arrived to the message; refuse one that grows too large."""
        fault = self._count(primitive)
        if fault is None:
            try:
                super().receive_primitive(primitive)
                return
            except Exception:  # hostile bytes may raise anything
                fault = Fault.MALFORMED
        self.message = None
        self._storage.fault(fault)
        self.dul.event_queue.put("Evt19")

    def free(self) -> None:
        """The message was dealt with, or will never be."""
        self._storage.held.free(self._dataset_bytes)
        self._dataset_bytes = 0

    def _count(self, primitive: P_DATA) -> Fault | None:
        limits = self._storage.limits
        if self.message is None:
            self._command_bytes = 0
        for _, value in primitive.presentation_data_value_list:
            size = len(value) - 1
            if value[0] & 1:
                self._command_bytes += size
            elif not self._storage.held.take(size):
                return Fault.NO_MEMORY
            else:
                self._dataset_bytes += size
        if self._dataset_bytes > limits.instance_bytes:
            return Fault.INSTANCE_TOO_LARGE
        return Fault.MALFORMED if self._command_bytes > COMMAND_BYTES else None


class StorageAssociation(Association):
    """An association that we accept."""

    def __init__(
        self,
        ae: ApplicationEntity,
        limits: LinkLimits,
        held: Held,
        peer: Peer,
        fault: Callable[[Fault], None],
    ) -> None:
        self.id = ""
        self.work = threading.Event()
        self.limits = limits
        self.held = held
        self.peer = peer
        self._tell = fault
        self._broken = False
        super().__init__(ae, "acceptor")
        self.dul = UpperLayer(self)
        self.dimse: _Dimse = _Dimse(self)
        self.network_timeout = limits.idle_seconds
        self.acse_timeout = limits.connect_seconds

    def fault(self, fault: Fault) -> None:
        """It broke a bound. What follows from that is no further fault: two of its threads may see
        the same silence."""
        if not self._broken:
            self._broken = True
            self._tell(fault)

    def run_reactor(self) -> None:
        """Run until the association ends, then free its connection."""
        try:
            super().run_reactor()
        finally:
            self.dimse.free()
            cast("StorageServer", self._server).closed()

    def _run_reactor(self) -> None:
        """Serve requests until release, abort, or silence."""
        self._is_paused = False
        while not self._kill:
            self.work.wait(IDLE_SECONDS)
            self.work.clear()
            while not self._kill and self.dimse.msg_queue.queue:
                context_id, message = self.dimse.get_msg(block=False)
                if message is not None:
                    self._serve_request(message, cast(int, context_id))
                    self.dimse.free()
            if self.is_established and self.acse.is_release_requested():
                self.is_released = True
                evt.trigger(self, evt.EVT_RELEASED, {})
                self.acse.send_release(is_response=True)
                self.is_established = False
                self.kill()
            elif self.acse.is_aborted():
                self.dul.receive_pdu(wait=False)
                self.is_aborted = True
                self.is_established = False
                evt.trigger(self, evt.EVT_ABORTED, {})
                self.kill()
            elif not self.dul.is_alive():
                self.kill()
            elif self.dul.idle_timer_expired():
                self.fault(Fault.TOO_SLOW)
                self.abort()
                self.kill()
