"""Which object a data set says it is, read without trusting it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from models.imaging import ImageProblem, Problem
from models.imaging.dicom_header import Elements, read, read_head
from service.pacs.received import Received, is_uid

_SOP_CLASS, _SOP_INSTANCE, _MODALITY = 0x00080016, 0x00080018, 0x00080060
_STUDY, _SERIES = 0x0020000D, 0x0020000E
_LAST_GROUP: Final = 0x0020
_WANTED: Final = frozenset((_SOP_CLASS, _SOP_INSTANCE, _MODALITY, _STUDY, _SERIES))


class IdentityProblem(Exception):
    """The data set cannot be taken as the object it is sent as.

    ``reason`` is a fixed word for metrics and the spool, the message a sentence of at most 64
    characters for Error Comment (PS3.7 section C.4.2.1). Neither quotes the data set.
    """

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ObjectIdentity:
    """What the data set says of itself."""

    sop_class: str
    sop_instance: str
    study: str
    series: str
    modality: str


def identify(file: bytes, image: bool) -> ObjectIdentity:
    """Read the identity of a DICOM file.

    Args:
        image: check the structure to its end. One that is merely too large to be judged, or of a
            kind that is not, is an object all the same: whoever judges decides what becomes of it.

    Raises:
        IdentityProblem: it is damaged or lacks a UID.
    """
    try:
        elements = _read(file) if image else read_head(file, _WANTED, _LAST_GROUP)
    except Exception:  # hostile bytes may raise anything
        raise IdentityProblem("malformed", "The data set cannot be read") from None
    return ObjectIdentity(
        sop_class=_uid(elements, _SOP_CLASS, "SOP Class UID"),
        sop_instance=_uid(elements, _SOP_INSTANCE, "SOP Instance UID"),
        study=_uid(elements, _STUDY, "Study Instance UID"),
        series=_uid(elements, _SERIES, "Series Instance UID"),
        modality=_code(elements.get(_MODALITY)),
    )


def agree(identity: ObjectIdentity, received: Received) -> None:
    """Check the data set against what it was sent as. Raises ``IdentityProblem``."""
    if identity.sop_class != received.sop_class:
        raise IdentityProblem("other-sop-class", "The data set is of another SOP class")
    if identity.sop_instance != received.sop_instance:
        raise IdentityProblem("other-instance", "The data set has another SOP Instance UID")


def _read(file: bytes) -> Elements:
    try:
        return read(file, _WANTED).elements
    except ImageProblem as problem:
        if problem.problem is Problem.MALFORMED:
            raise
        return read_head(file, _WANTED, _LAST_GROUP)


def _uid(elements: Elements, tag: int, name: str) -> str:
    text = (
        elements[tag].value[:66].rstrip(b"\0 ").decode("ascii", "replace")
        if tag in elements
        else ""
    )
    if not is_uid(text):
        raise IdentityProblem("no-uid", f"The data set has no valid {name}")
    return text


def _code(element: object) -> str:
    """A code string (PS3.5 section 6.2), or empty when it is none."""
    value: bytes = getattr(element, "value", b"")
    text = value[:17].strip(b"\0 ").decode("ascii", "replace")
    plain = text.replace(" ", "").replace("_", "")
    return text if len(text) <= 16 and plain.isascii() and plain.isalnum() else ""
