"""Syslog: RFC 5424 messages over TLS with octet counting (RFC 5425) or over UDP (RFC 5426)."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress

from service.pacs.outbox import Item
from service.pacs.peers import PeerProblem, SyslogPeer
from service.pacs.senders.sender import Outcome, Sent, Unreachable


class SyslogSender:
    """Keeps one connection. Syslog has no answers: delivered means that the peer's kernel has it,
    and over UDP that ours has sent it."""

    def __init__(self, peer: SyslogPeer) -> None:
        self._peer = peer
        self._socket: socket.socket | None = None

    def send(self, items: Sequence[Item]) -> Iterator[Sent]:
        """As ``Sender.send``."""
        for item in items:
            self._write(item.parcel.content)
            yield Sent(item, Outcome.DELIVERED)

    def close(self) -> None:
        """Close the connection, waiting for what was written to arrive."""
        if self._socket is not None:
            with suppress(OSError, ValueError):
                if isinstance(self._socket, ssl.SSLSocket):
                    self._socket.unwrap()
            self._socket.close()
            self._socket = None

    def _write(self, message: bytes) -> None:
        try:
            if self._socket is None:
                self._socket = self._connect()
            if self._peer.transport == "udp":
                self._socket.send(message)
            else:
                self._see_that_it_is_open()
                self._socket.sendall(f"{len(message)} ".encode() + message)
        except (OSError, ssl.SSLError):
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            raise Unreachable("unreachable") from None

    def _see_that_it_is_open(self) -> None:
        """A peer that is gone is noticed before writing, not after: TCP would take the message
        and lose it."""
        assert self._socket is not None
        self._socket.settimeout(0.0)
        try:
            if not self._socket.recv(1):
                raise ConnectionResetError
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        finally:
            self._socket.settimeout(self._peer.timeout_seconds)

    def _connect(self) -> socket.socket:
        peer = self._peer
        if peer.transport == "udp":
            family, kind, protocol, _, address = socket.getaddrinfo(
                peer.host, peer.port, type=socket.SOCK_DGRAM
            )[0]
            datagrams = socket.socket(family, kind, protocol)
            datagrams.connect(address)
            return datagrams
        try:
            context = peer.tls.context()
        except PeerProblem:
            raise Unreachable("certificate-files") from None
        plain = socket.create_connection((peer.host, peer.port), peer.timeout_seconds)
        try:
            return context.wrap_socket(plain, server_hostname=peer.host)
        except BaseException:  # whatever it is, the socket is closed
            plain.close()
            raise
