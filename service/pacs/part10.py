"""A data set as a DICOM file and back (PS3.10 section 7.1), without touching the data set."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from service.pacs.implementation import CLASS_UID, PRIVATE_CREATOR_UID, VERSION_NAME
from service.pacs.received import Received, is_uid

PREAMBLE_BYTES: Final = 128
MOST_META_BYTES: Final = 64 * 2**10
_MAGIC: Final = b"DICM"
_LONG: Final = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT")
)
_GROUP_LENGTH, _CLASS, _INSTANCE = 0x00020000, 0x00020002, 0x00020003
_SYNTAX, _PRIVATE_CREATOR, _PRIVATE = 0x00020010, 0x00020100, 0x00020102


class NotPart10(ValueError):
    """The bytes are not a DICOM file. The message says what is missing."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A file taken apart."""

    preamble: bytes
    transfer_syntax: str
    sop_class: str
    """Empty where the file meta information lacks it; likewise the instance."""
    sop_instance: str
    private: bytes
    """Our own (0002,0102), or empty."""
    dataset: memoryview


def head(received: Received) -> bytes:
    """What precedes the data set in its file: a zeroed preamble and the file meta information,
    with ``received`` as our Private Information."""
    meta = b"".join(
        (
            _element(0x00020001, b"OB", b"\0\1"),
            _element(_CLASS, b"UI", _uid(received.sop_class)),
            _element(_INSTANCE, b"UI", _uid(received.sop_instance)),
            _element(_SYNTAX, b"UI", _uid(received.transfer_syntax)),
            _element(0x00020012, b"UI", _uid(CLASS_UID)),
            _element(0x00020013, b"SH", _even(VERSION_NAME.encode(), b" ")),
            _element(_PRIVATE_CREATOR, b"UI", _uid(PRIVATE_CREATOR_UID)),
            _element(_PRIVATE, b"OB", _even(received.to_json().encode(), b" ")),
        )
    )
    length = _element(_GROUP_LENGTH, b"UL", struct.pack("<I", len(meta)))
    return bytes(PREAMBLE_BYTES) + _MAGIC + length + meta


def take_apart(data: bytes | memoryview) -> Parts:
    """The parts of a file that nobody vouches for; the data set is not looked at.

    Raises:
        NotPart10: no preamble, a broken or huge file meta information, or no transfer syntax.
    """
    view = memoryview(data)
    if bytes(view[PREAMBLE_BYTES : PREAMBLE_BYTES + 4]) != _MAGIC:
        raise NotPart10("it does not begin with a DICOM preamble")
    at = PREAMBLE_BYTES + 4
    end = min(len(view), at + MOST_META_BYTES)
    found: dict[int, bytes] = {}
    while at + 8 <= len(view) and bytes(view[at : at + 2]) == b"\x02\x00":
        if at + 12 > end:
            raise NotPart10("its file meta information is too large or cut short")
        tag = 0x00020000 | struct.unpack_from("<H", view, at + 2)[0]
        long = bytes(view[at + 4 : at + 6]) in _LONG
        length = struct.unpack_from("<I" if long else "<H", view, at + (8 if long else 6))[0]
        value = at + (12 if long else 8)
        if value + length > end:
            raise NotPart10("its file meta information is too large or cut short")
        if tag in found:
            raise NotPart10("its file meta information names an element twice")
        found[tag] = bytes(view[value : value + length])
        at = value + length
    syntax = _text(found.get(_SYNTAX, b""))
    if not is_uid(syntax):
        raise NotPart10("its file meta information names no transfer syntax")
    ours = _text(found.get(_PRIVATE_CREATOR, b"")) == PRIVATE_CREATOR_UID
    return Parts(
        preamble=bytes(view[:PREAMBLE_BYTES]),
        transfer_syntax=syntax,
        sop_class=_text(found.get(_CLASS, b"")),
        sop_instance=_text(found.get(_INSTANCE, b"")),
        private=found.get(_PRIVATE, b"") if ours else b"",
        dataset=view[at:],
    )


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    number = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if vr in _LONG:
        return number + vr + b"\0\0" + struct.pack("<I", len(value)) + value
    return number + vr + struct.pack("<H", len(value)) + value


def _uid(text: str) -> bytes:
    return _even(text.encode("ascii", "replace"), b"\0")


def _even(value: bytes, pad: bytes) -> bytes:
    return value + pad if len(value) % 2 else value


def _text(value: bytes) -> str:
    """A UID's text; empty unless it is one."""
    text = value.rstrip(b"\0 ").decode("ascii", "replace")
    return text if is_uid(text) else ""
