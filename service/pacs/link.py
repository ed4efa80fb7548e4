"""Listens for DICOM connections, within bounds.

pynetdicom reads as many bytes as a PDU claims to have, waits for them without end, does TLS
handshakes in the thread that accepts connections, and looks for work a thousand times a second.
The classes here, in ``storage_association`` and in ``upper_layer`` replace exactly those parts,
by the bounds of ``link_limits``; its state machine, negotiation and messages stay.
"""

from __future__ import annotations

import hashlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

from pynetdicom import _config
from pynetdicom.ae import ApplicationEntity
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from service.pacs.link_limits import SPARE_CONNECTIONS, Fault, Held, LinkLimits, Peer
from service.pacs.storage_association import StorageAssociation
from service.pacs.upper_layer import BoundedSocket, UpperLayer

# Its log lines quote titles and UIDs; what happens is told by this package's own events.
_config.LOG_HANDLER_LEVEL = "none"
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


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
        link = BoundedSocket(
            association,
            self.request,
            cast(UpperLayer, association.dul).wake_end,
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

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002  # socketserver's signature
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
