"""A bounded reader of DICOM headers (PS3.5 sections 6, 7 and 10): the few elements that decide
pixels, and where the pixels lie.

Why not a general parser here: this one allocates nothing that the file's numbers ask for, does
not recurse with the file, looks at no element about the patient, and knows the bounds before
the first value is read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final, Literal

from models.imaging import deflated
from models.imaging.image import ImageProblem, Limits, Problem
from models.imaging.transfer_syntax import (
    DEFLATED,
    IMPLICIT_LITTLE,
    TRANSFER_SYNTAXES,
    TransferSyntax,
)

_DEFAULT_LIMITS: Final = Limits()
_MOST_ELEMENTS: Final = 20_000  # of the top level
_MOST_NESTED: Final = 200_000  # 2,000 frames whose functional groups have 100 each
_DEEPEST: Final = 32
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_ITEM_BYTES: Final = b"\xfe\xff\x00\xe0"
_META_GROUP: Final = 2
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

    syntax: TransferSyntax
    elements: Elements
    pixels: memoryview | None
    """Pixel Data's value; when encapsulated, its items and their delimiter."""
    overlays: bool
    """Whether there are overlay planes (PS3.3 section C.9), which are never drawn."""


def read(data: bytes, wanted: frozenset[int], limits: Limits = _DEFAULT_LIMITS) -> Header:
    """Read up to Pixel Data, keeping only ``wanted`` elements of the top level.

    Raises:
        ImageProblem: damaged, over a bound, or a transfer syntax that is not read.
    """
    start = 132 if data[128:132] == b"DICM" else 0
    syntax, start = _transfer_syntax(data, start)
    if syntax.uid == DEFLATED:
        data, start = deflated.inflate(memoryview(data)[start:], limits), 0
    reader = _Reader(data, wanted, start + limits.header_bytes)
    elements = reader.dataset(start, len(data), syntax.uid != IMPLICIT_LITTLE, 0)
    if reader.pixels is not None and syntax.encapsulated != reader.encapsulated:
        raise _damaged()
    return Header(syntax, elements, reader.pixels, reader.overlays)


def read_head(
    data: bytes, wanted: frozenset[int], last_group: int, limits: Limits = _DEFAULT_LIMITS
) -> Elements:
    """The ``wanted`` elements of the top level up to ``last_group``, of any object, image or not.
    What lies beyond is not looked at. Raises as ``read``."""
    start = 132 if data[128:132] == b"DICM" else 0
    syntax, start = _transfer_syntax(data, start)
    if syntax.uid == DEFLATED:
        data, start = deflated.inflate(memoryview(data)[start:], limits), 0
    reader = _Reader(data, wanted, len(data), last_group)
    return reader.dataset(start, len(data), syntax.uid != IMPLICIT_LITTLE, 0)


def item(sequence: Element, wanted: frozenset[int], start: int = 0) -> Elements:
    """The ``wanted`` elements of a sequence's item: the first, or that which starts at ``start``;
    empty where there is none."""
    if start + 8 > len(sequence.value):
        return {}
    tag, length = _item_header(sequence.value, start)
    if tag != _ITEM:
        return {}
    end = len(sequence.value) if length == _UNDEFINED else start + 8 + length
    reader = _Reader(sequence.value, wanted, len(sequence.value))
    return reader.dataset(start + 8, end, sequence.explicit, 1)


def item_starts(sequence: Element) -> tuple[int, ...]:
    """Where each item of a sequence starts."""
    reader = _Reader(sequence.value, frozenset(), len(sequence.value))
    found: list[int] = []
    at = 0
    while at + 8 <= len(sequence.value):
        tag, length = _item_header(sequence.value, at)
        if tag != _ITEM:
            break
        found.append(at)
        if length == _UNDEFINED:
            at = reader.skip(_Open("item", sequence.explicit, None), at + 8)
        else:
            at += 8 + length
    return tuple(found)


def _transfer_syntax(data: bytes, start: int) -> tuple[TransferSyntax, int]:
    """The transfer syntax and where the data set starts, from the file meta information
    (PS3.10 section 7.1; always explicit little endian). Without it: the default, implicit."""
    if data[start : start + 2] != b"\x02\x00":
        if start or data[:2] != b"\x08\x00":
            raise _damaged()
        return TRANSFER_SYNTAXES[IMPLICIT_LITTLE], start
    meta = _Reader(data, frozenset((_TRANSFER_SYNTAX,)), len(data), last_group=_META_GROUP)
    elements = meta.dataset(start, len(data), True, 0)
    if _TRANSFER_SYNTAX not in elements:
        raise _damaged()
    uid = elements[_TRANSFER_SYNTAX].value[:65].rstrip(b"\0 ").decode("ascii")
    syntax = TRANSFER_SYNTAXES.get(uid)
    if syntax is None:
        raise ImageProblem(
            Problem.UNSUPPORTED,
            f"The transfer syntax is {_registered_name(uid)}, which is not read here. Send "
            "Implicit or Explicit VR Little Endian, RLE Lossless, or a JPEG, JPEG-LS, JPEG 2000 or "
            "HTJ2K syntax of the DICOM standard.",
        )
    return syntax, meta.position


def _registered_name(uid: str) -> str:
    from pydicom._uid_dict import UID_dictionary

    entry = UID_dictionary.get(uid)
    if entry is None or entry[1] != "Transfer Syntax":
        return "not in the DICOM standard"
    return f"{entry[0]} ({uid})"


@dataclass(slots=True)
class _Open:
    """A sequence or an item whose end has not been reached. ``explicit``: how a sequence's items
    are encoded; for an item the same. ``end`` is None when a delimiter ends it."""

    kind: Literal["sequence", "item"]
    explicit: bool
    end: int | None


@dataclass(slots=True)
class _Reader:
    data: bytes
    wanted: frozenset[int]
    header_end: int
    """Nothing but Pixel Data may reach beyond."""
    last_group: int = 0xFFFF
    count: int = 0
    nested: int = 0
    position: int = 0
    """Where the data set that was read ended."""
    pixels: memoryview | None = None
    encapsulated: bool = False
    overlays: bool = False
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
            self.count += 1
            if self.count > _MOST_ELEMENTS:
                raise _too_many(_MOST_ELEMENTS)
            if tag == _PIXEL_DATA and depth == 0:
                self._at_pixels(value, length, explicit)
                break
            if tag == _ITEM_END and depth > 0:
                break
            stop = self._after(tag, vr, length, value, explicit)
            if stop > end:
                raise _damaged()
            if depth == 0:
                self._check_top_level(group, stop)
            if tag in self.wanted:
                if tag in self._found:
                    raise _twice()
                self._found[tag] = Element(self.data[value:stop], explicit and vr != b"UN")
            self.position = stop
        return self._found

    def skip(self, outer: _Open, at: int) -> int:
        """Where the sequence or item whose value starts at ``at`` ends."""
        open_ = [outer]
        while open_:
            if len(open_) > 2 * _DEEPEST:
                raise ImageProblem(
                    Problem.MALFORMED,
                    f"The DICOM header nests sequences more than {_DEEPEST} deep. Export the image "
                    "alone.",
                )
            here = open_[-1]
            if here.end is not None and at >= here.end:
                if at > here.end:
                    raise _damaged()
                open_.pop()
                continue
            tag, vr, length, value = self._element(at, here.explicit)
            self.nested += 1
            if self.nested > _MOST_NESTED:
                raise _too_many(_MOST_NESTED)
            at = value
            stop = None if length == _UNDEFINED else value + length
            if here.kind == "sequence":
                if tag == _SEQUENCE_END and here.end is None:
                    open_.pop()
                elif tag != _ITEM:
                    raise _damaged()
                else:
                    open_.append(_Open("item", here.explicit, stop))
            elif tag == _ITEM_END and here.end is None:
                open_.pop()
            elif self._is_sequence(tag, vr, length, value):
                open_.append(_Open("sequence", here.explicit and vr != b"UN", stop))
            elif stop is None or stop > len(self.data):
                raise _damaged()
            else:
                at = stop
        return at

    def _after(self, tag: int, vr: bytes, length: int, value: int, explicit: bool) -> int:
        """Where an element ends. Sequences are walked, so that nobody who reads the file later
        is led deeper than this reader was."""
        stop = None if length == _UNDEFINED else value + length
        if not self._is_sequence(tag, vr, length, value):
            if stop is None:
                raise _damaged()
            return stop
        if stop is not None and stop > len(self.data):
            raise _damaged()
        return self.skip(_Open("sequence", explicit and vr != b"UN", stop), value)

    def _is_sequence(self, tag: int, vr: bytes, length: int, value: int) -> bool:
        if vr == b"SQ":
            return True
        if vr not in (b"UN", b""):
            return False
        # without a VR: an undefined length (PS3.5 section 6.2.2), or a standard element, whose
        # group is even, that begins with an item
        return length == _UNDEFINED or (
            tag >> 16 & 1 == 0 and length >= 8 and self.data[value : value + 4] == _ITEM_BYTES
        )

    def _element(self, at: int, explicit: bool) -> tuple[int, bytes, int, int]:
        """Tag, VR (empty when implicit), length, and the value's position."""
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

    def _at_pixels(self, value: int, length: int, explicit: bool) -> None:
        self.encapsulated = length == _UNDEFINED
        stop = self._after_fragments(value) if self.encapsulated else value + length
        if stop > len(self.data):
            raise _damaged()
        self.pixels = memoryview(self.data)[value:stop]
        self._nothing_twice(stop, explicit)

    def _after_fragments(self, at: int) -> int:
        """Behind the delimiter of encapsulated pixels, or the file's end where it is missing."""
        while at + 8 <= len(self.data):
            tag, length = _item_header(self.data, at)
            if tag not in (_ITEM, _SEQUENCE_END):
                raise _damaged()
            self.nested += 1
            if self.nested > _MOST_NESTED:
                raise _too_many(_MOST_NESTED)
            at += 8 + length
            if tag == _SEQUENCE_END:
                break
        return at

    def _nothing_twice(self, at: int, explicit: bool) -> None:
        """Readers that keep the last of two equal elements must see the same image. What is no
        element behind native pixels is filling."""
        while at < len(self.data):
            try:
                tag, vr, length, value = self._element(at, explicit)
            except (ImageProblem, struct.error):
                return
            if tag == _PIXEL_DATA or tag in self.wanted:
                raise _twice()
            self.count += 1
            if tag == 0 or self.count > _MOST_ELEMENTS:
                return
            at = self._after(tag, vr, length, value, explicit)

    def _check_top_level(self, group: int, stop: int) -> None:
        if stop > self.header_end:
            raise ImageProblem(
                Problem.TOO_LARGE,
                "The DICOM header before the pixels is too long. Export the image alone.",
            )
        if group == _META_GROUP and self.last_group != _META_GROUP:
            raise ImageProblem(
                Problem.MALFORMED,
                "The DICOM data set holds file meta information, which belongs before it. Export "
                "it again.",
            )
        self.overlays = self.overlays or group & 0xFF01 == 0x6000


def _item_header(data: bytes | memoryview, at: int) -> tuple[int, int]:
    group, number, length = struct.unpack_from("<HHI", data, at)
    return group << 16 | number, length


def _too_many(bound: int) -> ImageProblem:
    return ImageProblem(
        Problem.TOO_LARGE,
        f"The DICOM header has over {bound} elements. Export the image alone.",
    )


def _twice() -> ImageProblem:
    return ImageProblem(
        Problem.MALFORMED,
        "The DICOM file gives an element twice, so what it shows is undefined. Export it again.",
    )


def _damaged() -> ImageProblem:
    return ImageProblem(
        Problem.MALFORMED, "The DICOM file is damaged or truncated. Export it again."
    )
