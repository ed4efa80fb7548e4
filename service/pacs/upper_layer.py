"""pynetdicom's upper layer with bounded reads: it takes no more bytes than a PDU may have, waits
for none for ever, and sleeps until there is something to do. Its state machine stays."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from queue import Queue
from typing import TYPE_CHECKING, Any, Final, cast

from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket

from service.pacs.link_limits import REQUEST_BYTES, Fault

if TYPE_CHECKING:
    from service.pacs.storage_association import StorageAssociation

_P_DATA_TF: Final = 4
_QUICK_ACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
"""Until the kernel changes its mind: a sender under Nagle's algorithm holds the end of each
message back until what came before is acknowledged, which a kernel delays by 40 ms."""
_AWAITING_REQUEST: Final = ("Sta1", "Sta2")
_ENDING: Final = "Sta13"
IDLE_SECONDS: Final = 0.1
"""How often timers are looked at while nothing arrives."""


class Calling(Queue[Any]):
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


class BoundedSocket(AssociationSocket):
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
        patience = IDLE_SECONDS * 1000 if self.event_queue.empty() else 0
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


class UpperLayer(DULServiceProvider):
    """The upper layer with bounded reads."""

    def __init__(self, assoc: StorageAssociation) -> None:
        super().__init__(assoc)
        self._storage = assoc
        self._run_loop_delay = 0
        self.daemon = True
        self._wake, self.wake_end = socket.socketpair()
        self._wake.setblocking(False)
        self.wake_end.setblocking(False)
        self.to_provider_queue = Calling(self._rouse)
        self.to_user_queue = Calling(assoc.work.set)

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
        link = cast(BoundedSocket, self.socket)
        if self.state_machine.current_state == _ENDING:
            link.discard()
            return
        limits, seconds = self._storage.limits, self._storage.limits.idle_seconds
        # By this thread's own state: the other one learns that the association is established
        # after the peer does, who sends its first data at once.
        awaiting = self._awaits_request()
        try:
            header = link.read(6, seconds)
            kind, length = struct.unpack(">BxL", header)
            if not 1 <= kind <= 7:
                self._refuse(Fault.NOT_DICOM)
                return
            if length > (REQUEST_BYTES if awaiting else limits.pdu_bytes):
                self._refuse(Fault.NOT_DICOM if awaiting else Fault.PDU_TOO_LARGE)
                return
            body = link.read(length, seconds)
        except TimeoutError:
            self._storage.fault(Fault.TOO_SLOW)
            self._gone(link)
            return
        except (OSError, EOFError, ValueError):
            if not awaiting:
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

    def _awaits_request(self) -> bool:
        return self.state_machine.current_state in _AWAITING_REQUEST

    def _refuse(self, fault: Fault) -> None:
        self._storage.fault(fault)
        if self._awaits_request():
            # Whoever it is has said nothing in DICOM, and is not answered in it.
            self._gone(cast(BoundedSocket, self.socket))
        else:
            self.event_queue.put("Evt19")

    def _gone(self, link: BoundedSocket) -> None:
        """The connection has ended, or is not worth another byte."""
        link.close()
        if self._awaits_request():
            # Nobody need wait for a request any more.
            self.to_user_queue.put(cast(Any, None))


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
