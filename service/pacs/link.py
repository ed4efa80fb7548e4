"""Bounds under pynetdicom: what an association may send before and after it is accepted.

pynetdicom reads as many bytes as a PDU claims to have, waits for them without end, does TLS
handshakes in the thread that accepts connections, and looks for work a thousand times a second.
The classes here replace exactly those parts; its state machine, negotiation and messages stay.
"""

from __future__ import annotations

import hashlib
import logging
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from queue import Queue
from typing import Any, Final, cast

from pynetdicom import _config, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import (
    AssociationSocket,
    RequestHandler,
    ThreadedAssociationServer,
)

# Its log lines quote titles and UIDs; what happens is told by this package's own events.
_config.LOG_HANDLER_LEVEL = "none"
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)

REQUEST_BYTES: Final = 64 * 2**10
"""Most bytes of a PDU before the association is accepted: 128 presentation contexts take 20 KB."""
COMMAND_BYTES: Final = 16 * 2**10
"""Most bytes of a DIMSE command set; a C-STORE request takes 200."""
SPARE_CONNECTIONS: Final = 16
"""Beyond the associations, so that one too many is told so by a rejection."""
_P_DATA_TF: Final = 4
_QUICK_ACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
"""Until the kernel changes its mind: a sender under Nagle's algorithm holds the end of each
message back until what came before is acknowledged, which a kernel delays by 40 ms."""
_AWAITING_REQUEST: Final = ("Sta1", "Sta2")
_ENDING: Final = "Sta13"
_IDLE_SECONDS: Final = 0.1
"""How often timers are looked at while nothing arrives."""


class Fault(StrEnum):
    """How a connection broke a bound."""

    HANDSHAKE = "tls-handshake"
    TOO_MANY = "too-many-connections"
    NOT_DICOM = "not-dicom"
    PDU_TOO_LARGE = "pdu-too-large"
    TOO_SLOW = "too-slow"
    CUT_SHORT = "cut-short"
    INSTANCE_TOO_LARGE = "instance-too-large"
    NO_MEMORY = "no-memory"
    MALFORMED = "malformed-message"


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """The bounds."""

    pdu_bytes: int = 256 * 2**10
    """Of a P-DATA-TF, announced in the negotiation."""
    instance_bytes: int = 512 * 2**20
    held_bytes: int = 2**30
    """Of all instances on their way in."""
    associations: int = 64
    connect_seconds: float = 10.0
    """For the TLS handshake, and again for the association request."""
    idle_seconds: float = 60.0
    """Between PDUs, and for each PDU to arrive."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection."""

    address: str
    certificate: str | None
    """Hex SHA-256 of its certificate (DER)."""


class Held:
    """Bytes of messages on their way in, of all associations together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Whether there is room for so many more."""
        with self._lock:
            if self._bytes + count > self._most:
                return False
            self._bytes += count
            return True

    def free(self, count: int) -> None:
        """Give them back."""
        with self._lock:
            self._bytes -= count


class _Calling(Queue[Any]):
    """A queue that says when something was put into it."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__()
        self._call = call

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._call()


class _Received:
    """A P-DATA-TF PDU of which only the values are kept, without copying them."""

    def __init__(self, values: list[tuple[int, memoryview]]) -> None:
        self._values = values

    def to_primitive(self) -> P_DATA:
        primitive = P_DATA()
        # Its setter insists on copies.
        primitive._presentation_data_value_list = cast(Any, self._values)
        return primitive


class _Socket(AssociationSocket):
    """Waits for data instead of asking for it, and never longer or for more than it may."""

    def __init__(
        self, assoc: Association, client_socket: socket.socket, wake: socket.socket, seconds: float
    ) -> None:
        super().__init__(assoc, client_socket)
        self._wake = wake
        self._poll = select.poll()
        self._poll.register(client_socket, select.POLLIN)
        self._poll.register(wake, select.POLLIN)
        self._number = client_socket.fileno()
        client_socket.settimeout(seconds)

    @property
    def ready(self) -> bool:
        """Whether data has arrived; waits a moment for it, or until there is something to send."""
        held = self.socket
        if held is None or not self._is_connected:
            time.sleep(0.001)
            return False
        if isinstance(held, ssl.SSLSocket) and held.pending():
            return True
        # What has happened already is not kept waiting for what may happen.
        patience = _IDLE_SECONDS * 1000 if self.event_queue.empty() else 0
        try:
            events = self._poll.poll(patience)
        except (OSError, ValueError):
            self.event_queue.put("Evt17")
            return False
        arrived = False
        for number, _ in events:
            if number == self._number:
                arrived = True
            else:
                self._wake.recv(64)
        return arrived

    def read(self, count: int, seconds: float) -> bytearray:
        """Exactly ``count`` bytes within ``seconds``. Raises ``OSError`` (``TimeoutError`` when
        they take longer, ``EOFError`` when there are fewer)."""
        held = self.socket
        if held is None:
            raise EOFError
        until = time.monotonic() + seconds
        data = bytearray(count)
        view = memoryview(data)
        while view:
            read = held.recv_into(view)
            if _QUICK_ACK is not None:
                held.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
            if read == 0:
                raise EOFError
            view = view[read:]
            if view and time.monotonic() > until:
                raise TimeoutError
        return data

    def discard(self) -> None:
        """Throw away what the peer still sends after the end."""
        try:
            if self.socket is not None and self.socket.recv(2**16):
                return
        except OSError:
            pass
        self.close()


class _Dul(DULServiceProvider):
    """The upper layer with bounded reads."""

    def __init__(self, assoc: StorageAssociation) -> None:
        super().__init__(assoc)
        self._storage = assoc
        self._run_loop_delay = 0
        self.daemon = True
        self._wake, self.wake_end = socket.socketpair()
        self._wake.setblocking(False)
        self.wake_end.setblocking(False)
        self.to_provider_queue = _Calling(self._rouse)
        self.to_user_queue = _Calling(assoc.work.set)

    def _rouse(self) -> None:
        try:
            self._wake.send(b"\0")
        except (BlockingIOError, OSError):  # it is awake, or gone
            return

    def run_reactor(self) -> None:
        """Run until killed."""
        try:
            super().run_reactor()
        finally:
            self._wake.close()
            self.wake_end.close()
            self._storage.work.set()

    def _read_pdu_data(self) -> None:
        """Read one PDU and queue what the state machine makes of it (PS3.8 section 9.3)."""
        link = cast(_Socket, self.socket)
        if self.state_machine.current_state == _ENDING:
            link.discard()
            return
        limits, seconds = self._storage.limits, self._storage.limits.idle_seconds
        established = self._storage.is_established
        try:
            header = link.read(6, seconds)
            kind, length = struct.unpack(">BxL", header)
            if not 1 <= kind <= 7:
                self._refuse(Fault.NOT_DICOM)
                return
            if length > (limits.pdu_bytes if established else REQUEST_BYTES):
                self._refuse(Fault.PDU_TOO_LARGE if established else Fault.NOT_DICOM)
                return
            body = link.read(length, seconds)
        except TimeoutError:
            self._storage.fault(Fault.TOO_SLOW)
            self._gone(link)
            return
        except (OSError, EOFError, ValueError):
            if established:
                self._storage.fault(Fault.CUT_SHORT)
            self._gone(link)
            return
        try:
            if kind == _P_DATA_TF:
                self._recv_pdu.put(cast(Any, _Received(_values(body))))
                self.event_queue.put("Evt10")
                return
            pdu, event = self._decode_pdu(header + body)
        except Exception:  # hostile bytes may raise anything
            self._refuse(Fault.MALFORMED)
            return
        self.event_queue.put(event)
        self._recv_pdu.put(pdu)

    def _refuse(self, fault: Fault) -> None:
        self._storage.fault(fault)
        if self.state_machine.current_state in _AWAITING_REQUEST:
            # Whoever it is has said nothing in DICOM, and is not answered in it.
            self._gone(cast(_Socket, self.socket))
        else:
            self.event_queue.put("Evt19")

    def _gone(self, link: _Socket) -> None:
        """The connection has ended, or is not worth another byte."""
        link.close()
        if not self._storage.is_established:
            # Nobody need wait for a request any more.
            self.to_user_queue.put(cast(Any, None))


class _Dimse(DIMSEServiceProvider):
    """Messages of bounded size."""

    def __init__(self, assoc: StorageAssociation) -> None:
        super().__init__(assoc)
        self._storage = assoc
        self.msg_queue = _Calling(assoc.work.set)
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
        self.dul = _Dul(self)
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
            cast(StorageServer, self._server).closed()

    def _run_reactor(self) -> None:
        """Serve requests until release, abort, or silence."""
        self._is_paused = False
        while not self._kill:
            self.work.wait(_IDLE_SECONDS)
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


class _Handler(RequestHandler):
    """From an accepted connection to a running association."""

    server: StorageServer

    def handle(self) -> None:
        """Shake hands, then start the association's threads."""
        started = False
        try:
            self.request.settimeout(self.server.limits.connect_seconds)
            if self.server.tls is not None:
                try:
                    self.request = self.server.tls.wrap_socket(self.request, server_side=True)
                except OSError:
                    self.server.fault(Fault.HANDSHAKE)
                    return
            self._create_association().start()
            started = True
        except OSError:
            return
        finally:
            if not started:
                self.server.closed()
                self.request.close()

    def _create_association(self) -> StorageAssociation:
        server = self.server
        certificate = None
        if isinstance(self.request, ssl.SSLSocket):
            certificate = fingerprint(self.request.getpeercert(binary_form=True))
        peer = Peer(str(self.client_address[0]), certificate)
        association = StorageAssociation(server.ae, server.limits, server.held, peer, server.fault)
        association._server = server
        association.name = "AcceptorThread"  # by which pynetdicom counts them
        link = _Socket(
            association,
            self.request,
            cast(_Dul, association.dul).wake_end,
            server.limits.idle_seconds,
        )
        association.set_socket(link)
        association.acceptor.maximum_length = server.ae.maximum_pdu_size
        association.acceptor.ae_title = server.ae_title
        association.acceptor.address_info = self.local
        association.acceptor.implementation_class_uid = server.ae.implementation_class_uid
        association.acceptor.implementation_version_name = server.ae.implementation_version_name
        # Negotiation only reads them, so all associations share one list.
        association.acceptor.supported_contexts = server.contexts
        association.requestor.address_info = self.remote
        for event, handler in server.handlers:
            association.bind(event, handler)
        return association


class StorageServer(ThreadedAssociationServer):
    """Listens, and hands connections to threads of their own.

    Raises:
        OSError: the address cannot be bound.
    """

    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        ae: ApplicationEntity,
        address: tuple[str, int],
        *,
        limits: LinkLimits,
        tls: ssl.SSLContext | None,
        handlers: Sequence[tuple[Any, Callable[..., Any]]],
        fault: Callable[[Fault], None],
    ) -> None:
        self.limits = limits
        self.held = Held(limits.held_bytes)
        self.tls = tls
        self.handlers = handlers
        self.fault = fault
        self._open = 0
        self._lock = threading.Lock()
        super().__init__(ae, address, ae.ae_title, ae.supported_contexts, request_handler=_Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; the TLS handshake happens in the connection's own thread."""
        assert self.socket is not None
        accepted, address = self.socket.accept()
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return accepted, address

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        """Whether there is room for one more connection."""
        with self._lock:
            room = self._open < self.limits.associations + SPARE_CONNECTIONS
            self._open += room
        if not room:
            self.fault(Fault.TOO_MANY)
        return room

    def closed(self) -> None:
        """One connection less."""
        with self._lock:
            self._open -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that failed has been told of as a fault."""


def fingerprint(certificate: bytes | None) -> str | None:
    """Hex SHA-256 of a certificate."""
    return None if certificate is None else hashlib.sha256(certificate).hexdigest()


def _values(body: bytearray) -> list[tuple[int, memoryview]]:
    """Context id and value of every item of a P-DATA-TF (PS3.8 section 9.3.5)."""
    found = []
    view = memoryview(body)
    while view:
        length, context_id = struct.unpack_from(">LB", view)
        if length < 2 or length + 4 > len(view):
            raise ValueError("an item that does not fit")
        found.append((context_id, view[5 : 4 + length]))
        view = view[4 + length :]
    if not found:
        raise ValueError("no items")
    return found
