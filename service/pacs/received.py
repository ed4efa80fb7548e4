"""Where one instance came from."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

MOST_BYTES = 4 * 2**10
"""Of a ``Received`` as JSON; its fields are bounded by the protocols far below this."""
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


class Protocol(StrEnum):
    """How it came."""

    DIMSE = "dimse"
    STOW = "stow"
    PULL = "pull"


@dataclass(frozen=True, slots=True)
class Received:
    """Where one instance came from. It names patients' objects: never log it.

    ``calling`` is the peer's AE title, the API client's name (STOW-RS), or the archive's
    configured name (pull). It is a claim; only ``certificate`` was proven.
    """

    protocol: Protocol
    calling: str
    called: str
    """The AE title that was called; empty outside DIMSE."""
    address: str
    """The peer's IP address, or the archive's host."""
    association: str
    """Id of the association, request or pull that brought it."""
    at: datetime
    """UTC."""
    transfer_syntax: str
    sop_class: str
    sop_instance: str
    certificate: str | None = None
    """SHA-256 of the peer's certificate (DER), in hex; None without a client certificate."""
    study: str = ""
    series: str = ""
    modality: str = ""
    """Modality (0008,0060), or empty."""

    @property
    def uid_digest(self) -> str:
        """Hex SHA-256 of the SOP Instance UID, for file names and look-ups."""
        return hashlib.sha256(self.sop_instance.encode()).hexdigest()

    def to_json(self) -> str:
        """One line of ASCII."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({**fields, "at": self.at.isoformat()}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Received:
        """Raises ``ValueError`` for anything that ``to_json`` has not written."""
        try:
            fields: dict[str, Any] = json.loads(text)
            fields["at"] = datetime.fromisoformat(fields["at"])
            fields["protocol"] = Protocol(fields["protocol"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("not a description of a received instance") from error


def is_uid(text: str) -> bool:
    """Digits and dots, at most 64 (PS3.5 section 9.1). Components with leading zeros, which the
    standard forbids and old modalities send, are let by: no file name is made of a UID here."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None
