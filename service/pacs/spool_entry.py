"""One instance in the spool: what is known of it, and whether its file is still what was
received."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from service.pacs.part10 import NotPart10, take_apart
from service.pacs.received import Received


class SpoolProblem(Exception):
    """The spool cannot be used. The message says why."""


class SpoolFull(SpoolProblem):
    """Too little space is left on its disk."""


class Reuse(StrEnum):
    """What came before under the same SOP Instance UID."""

    SAME_PIXELS = "same-pixels"
    """A corrected header: archives resend these."""
    OTHER_ENCODING = "other-encoding"
    """Another transfer syntax, so bytes cannot tell whether the pixels are the same."""
    OTHER_PIXELS = "other-pixels"
    """A UID names one image for ever (PS3.5 section 9): a fault or a substitution."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One instance in the spool."""

    key: str
    """The same for the same UID and data set, for ever: what makes judging idempotent."""
    sequence: int
    """Order of arrival."""
    received: Received
    size: int
    """Bytes of the file."""
    reuse: Reuse | None
    reason: str | None
    """Why it was set aside."""
    path: Path

    @property
    def alarming(self) -> bool:
        """Whether its UID has named other pixels before, as far as bytes can tell."""
        return self.reuse in (Reuse.OTHER_PIXELS, Reuse.OTHER_ENCODING)

    def read(self) -> bytes:
        """The DICOM file, its data set as received. Raises ``SpoolProblem`` when it is damaged."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise SpoolProblem(f"a spooled file cannot be read: {error.strerror}") from None
        if not whole(self.key, data):
            raise SpoolProblem("a spooled file is not what was received: the disk damaged it")
        return data


@dataclass(frozen=True, slots=True)
class Added:
    """What ``Spool.add`` did."""

    entry: Entry
    new: bool
    """False: this UID with this data set was taken before."""


@dataclass(frozen=True, slots=True)
class Held:
    """How much the spool holds."""

    waiting: int
    aside: int
    bytes: int
    free_bytes: int
    """On its disk, beyond the reserve; negative when the reserve is eaten into."""


def key_of(uid_digest: str, dataset: bytes | memoryview) -> str:
    """Of an instance, by ``Received.uid_digest`` and its data set."""
    return f"{uid_digest[:32]}-{hashlib.sha256(dataset).hexdigest()}"


def whole(key: str, data: bytes) -> bool:
    """Whether a file is the one that its name says."""
    try:
        parts = take_apart(data)
        received = Received.from_json(parts.private)
    except (NotPart10, ValueError):
        return False
    return key_of(received.uid_digest, parts.dataset) == key
