"""What an association may send before and after it is accepted, and how a connection breaks it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

REQUEST_BYTES: Final = 64 * 2**10
"""Most bytes of a PDU before the association is accepted: 128 presentation contexts take 20 KB."""
COMMAND_BYTES: Final = 16 * 2**10
"""Most bytes of a DIMSE command set; a C-STORE request takes 200."""
SPARE_CONNECTIONS: Final = 16
"""Beyond the associations, so that one too many is told so by a rejection."""


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
