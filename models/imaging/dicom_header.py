"""A bounded reader of DICOM headers (PS3.5 sections 6, 7 and 10): the few elements that decide
pixels, and where the pixels lie.

Why not a general parser here: this one allocates nothing that the file's numbers ask for, does
not recurse with the file, looks at no element about the patient, and knows the bounds before
the first value is read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from models.imaging.image import ImageProblem, Problem

IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
RLE_LOSSLESS: Final = "1.2.840.10008.1.2.5"

_MOST_ELEMENTS: Final = 20_000
_DEEPEST: Final = 32
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_TRANSFER_SYNTAX: Final = 0x00020010
_PIXEL_DATA: Final = 0x7FE00010
_LONG: Final = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_SHORT: Final = frozenset(
    (
        b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT",
        b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Element:
    """One value, unread. ``explicit`` says how a sequence's items are encoded."""

    value: bytes
    explicit: bool


Elements = dict[int, Element]
"""By tag, ``0xGGGGEEEE``."""


@dataclass(frozen=True, slots=True)
class Header:
    """What precedes the pixels of one file."""

    syntax: str
    elements: Elements
    pixels: memoryview | None
    """Pixel Data's value; for ``RLE_LOSSLESS`` from its first item to the file's end."""


def read(data: bytes, wanted: frozenset[int]) -> Header:
    """Read up to Pixel Data, keeping only ``wanted`` elements of the top level.

    Raises:
        ImageProblem: damaged, over a bound, or a transfer syntax that is not read.
    """
    start = 132 if data[128:132] == b"DICM" else 0
    syntax, start = _transfer_syntax(data, start)
    reader = _Reader(data, wanted)
    elements = reader.dataset(start, len(data), syntax != IMPLICIT_LITTLE, 0)
    if reader.pixels is not None and (syntax == RLE_LOSSLESS) != reader.encapsulated:
        raise _damaged()
    return Header(syntax, elements, reader.pixels)


def first_item(sequence: Element, wanted: frozenset[int]) -> Elements:
    """The ``wanted`` elements of a sequence's first item; empty for an empty sequence."""
    if not sequence.value:
        return {}
    tag, length = _item_header(sequence.value, 0)
    if tag != _ITEM:
        return {}
    end = len(sequence.value) if length == _UNDEFINED else 8 + length
    return _Reader(sequence.value, wanted).dataset(8, end, sequence.explicit, 1)


def _transfer_syntax(data: bytes, start: int) -> tuple[str, int]:
    """The transfer syntax and where the data set starts, from the file meta information
    (PS3.10 section 7.1; always explicit little endian). Without it: the default, implicit."""
    if data[start : start + 2] != b"\x02\x00":
        if start or data[:2] != b"\x08\x00":
            raise _damaged()
        return IMPLICIT_LITTLE, start
    meta = _Reader(data, frozenset((_TRANSFER_SYNTAX,)), last_group=2)
    elements = meta.dataset(start, len(data), True, 0)
    if _TRANSFER_SYNTAX not in elements:
        raise _damaged()
    syntax = elements[_TRANSFER_SYNTAX].value[:65].rstrip(b"\0 ").decode("ascii")
    if syntax not in (IMPLICIT_LITTLE, EXPLICIT_LITTLE, RLE_LOSSLESS):
        raise ImageProblem(
            Problem.UNSUPPORTED,
            f"The transfer syntax is {_registered_name(syntax)}, which is not read here. Send "
            "Implicit or Explicit VR Little Endian, or RLE Lossless.",
        )
    return syntax, meta.position


def _registered_name(uid: str) -> str:
    from pydicom._uid_dict import UID_dictionary

    entry = UID_dictionary.get(uid)
    if entry is None or entry[1] != "Transfer Syntax":
        return "not in the DICOM standard"
    return f"{entry[0]} ({uid})"


@dataclass(slots=True)
class _Reader:
    data: bytes
    wanted: frozenset[int]
    last_group: int = 0xFFFF
    count: int = 0
    position: int = 0
    """Where the data set that was read ended."""
    pixels: memoryview | None = None
    encapsulated: bool = False
    _found: Elements = field(default_factory=dict)

    def dataset(self, start: int, end: int, explicit: bool, depth: int) -> Elements:
        """Elements from ``start`` to Pixel Data, an item delimiter, a group beyond
        ``last_group``, or ``end``."""
        self._found = {}
        if end > len(self.data):
            raise _damaged()
        self.position = start
        while self.position < end:
            group = struct.unpack_from("<H", self.data, self.position)[0]
            if depth == 0 and group > self.last_group:
                break
            tag, vr, length, value = self._element(self.position, explicit)
            if tag == _PIXEL_DATA and depth == 0:
                self.encapsulated = length == _UNDEFINED
                stop = len(self.data) if self.encapsulated else value + length
                if stop > len(self.data):
                    raise _damaged()
                self.pixels = memoryview(self.data)[value:stop]
                break
            if tag == _ITEM_END and depth > 0:
                break
            items_explicit = explicit and vr != b"UN"
            if length == _UNDEFINED:
                if vr not in (b"SQ", b"UN", b""):
                    raise _damaged()
                stop = self._skip_sequence(value, items_explicit)
            else:
                stop = value + length
            if stop > end:
                raise _damaged()
            if tag in self.wanted:
                if tag in self._found:
                    raise ImageProblem(
                        Problem.MALFORMED,
                        "The DICOM file gives an element twice, so what it shows is undefined. "
                        "Export it again.",
                    )
                self._found[tag] = Element(self.data[value:stop], items_explicit)
            self.position = stop
        return self._found

    def _element(self, at: int, explicit: bool) -> tuple[int, bytes, int, int]:
        """Tag, VR (empty when implicit), length, and the value's position."""
        self.count += 1
        if self.count > _MOST_ELEMENTS:
            raise ImageProblem(
                Problem.TOO_LARGE,
                f"The DICOM header has over {_MOST_ELEMENTS} elements. Export the image alone.",
            )
        group, number = struct.unpack_from("<HH", self.data, at)
        tag = group << 16 | number
        if not explicit or group == 0xFFFE:
            return tag, b"", struct.unpack_from("<I", self.data, at + 4)[0], at + 8
        vr = self.data[at + 4 : at + 6]
        if vr in _LONG:
            return tag, vr, struct.unpack_from("<I", self.data, at + 8)[0], at + 12
        if vr not in _SHORT:
            raise _damaged()
        return tag, vr, struct.unpack_from("<H", self.data, at + 6)[0], at + 8

    def _skip_sequence(self, at: int, explicit: bool) -> int:
        """Where the undefined-length sequence whose value starts at ``at`` ends. ``open_`` is the
        stack of what is open: for a sequence, how its items are encoded; for an item the same."""
        open_: list[tuple[str, bool]] = [("sequence", explicit)]
        while open_:
            if len(open_) > 2 * _DEEPEST:
                raise ImageProblem(
                    Problem.MALFORMED,
                    f"The DICOM header nests sequences more than {_DEEPEST} deep.",
                )
            kind, explicit = open_[-1]
            tag, vr, length, value = self._element(at, explicit)
            at = value
            if kind == "sequence":
                if tag == _SEQUENCE_END:
                    open_.pop()
                elif tag != _ITEM:
                    raise _damaged()
                elif length == _UNDEFINED:
                    open_.append(("item", explicit))
                else:
                    at += length
            elif tag == _ITEM_END:
                open_.pop()
            elif length == _UNDEFINED:
                if vr not in (b"SQ", b"UN", b""):
                    raise _damaged()
                open_.append(("sequence", explicit and vr != b"UN"))
            else:
                at += length
        return at


def _item_header(data: bytes | memoryview, at: int) -> tuple[int, int]:
    group, number, length = struct.unpack_from("<HHI", data, at)
    return group << 16 | number, length


def fragments(encapsulated: memoryview) -> list[memoryview]:
    """The fragments of encapsulated pixel data, without the offset table (PS3.5 section A.4)."""
    found: list[memoryview] = []
    at = 0
    while True:
        tag, length = _item_header(encapsulated, at)
        if tag == _SEQUENCE_END:
            return found[1:]
        at += 8 + length
        if tag != _ITEM or length == _UNDEFINED or at > len(encapsulated):
            raise _damaged()
        if len(found) > _MOST_ELEMENTS:
            raise _damaged()
        found.append(encapsulated[at - length : at])


def _damaged() -> ImageProblem:
    return ImageProblem(
        Problem.MALFORMED, "The DICOM file is damaged or truncated. Export it again."
    )
