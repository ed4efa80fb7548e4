"""What a compressed frame says of itself, read before anything decodes it.

A file of 1.6 KB may hold a codestream of 12,000 x 12,000 behind a header that says 64 x 64.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

from models.imaging.image import ImageProblem, Problem
from models.imaging.transfer_syntax import (
    HTJ2K,
    HTJ2K_LOSSLESS,
    HTJ2K_LOSSLESS_RPCL,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    Codec,
    TransferSyntax,
)

_MOST_TIMES: Final = 1000
"""Samples may not take more memory than so many times the codestream. JPEG 2000 reaches 86,000
with an image of one value; radiographs reach 50."""
_MOST_TILES: Final = 4096  # tiles of 100 x 100 in the largest image
_MOST_LEVELS: Final = 32  # ISO 15444-1 table A.15
_MOST_LAYERS: Final = 256
_SOF: Final = {
    JPEG_BASELINE: (0xC0,),
    JPEG_EXTENDED: (0xC0, 0xC1),
}
"""Frame markers by transfer syntax (PS3.5 section A.4.1): sequential DCT with Huffman coding."""
_SOF_LOSSLESS: Final = (0xC3,)
_SOF_JPEG_LS: Final = (0xF7,)
_FRAMES: Final = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_HIGH_THROUGHPUT: Final = (HTJ2K, HTJ2K_LOSSLESS, HTJ2K_LOSSLESS_RPCL)


@dataclass(frozen=True, slots=True)
class Codestream:
    """The header of a JPEG, JPEG-LS or JPEG 2000 codestream."""

    rows: int
    columns: int
    samples: int
    bits: int
    signed: bool = False
    says_colour: bool = True
    """JPEG: whether it says itself if its colours are RGB or YCbCr."""


def read(data: bytes, syntax: TransferSyntax) -> Codestream:
    """Read the header.

    Raises:
        ImageProblem: no codestream of this transfer syntax, or a truncated one.
    """
    try:
        found = _jpeg_2000(data, syntax) if syntax.codec is Codec.JPEG_2000 else _jpeg(data, syntax)
    except (struct.error, IndexError):
        raise _damaged(syntax) from None
    if data[-6:].rstrip(b"\0\xff")[-2:] != b"\xff\xd9":  # EOI and EOC alike; encoders pad by both
        raise _damaged(syntax)
    return found


def check(
    found: Codestream, rows: int, columns: int, samples: int, stored: int, allocated: int
) -> None:
    """Raises ``ImageProblem`` when the codestream is not what the DICOM header describes."""
    if (found.rows, found.columns, found.samples) != (rows, columns, samples):
        raise ImageProblem(
            Problem.MALFORMED,
            f"The DICOM header describes {columns} x {rows} pixels of {samples} sample(s), and the "
            f"compressed image has {found.columns} x {found.rows} of {found.samples}. Export it "
            "again.",
        )
    if not (stored <= found.bits <= max(allocated, stored)):
        raise ImageProblem(
            Problem.MALFORMED,
            f"The DICOM header describes {stored} bits, and the compressed image has {found.bits}. "
            "Export it again.",
        )


def check_ratio(data: bytes, found: Codestream) -> None:
    """Raises ``ImageProblem`` for a codestream that grows beyond belief."""
    size = found.rows * found.columns * found.samples * (1 if found.bits <= 8 else 2)
    if size > _MOST_TIMES * max(len(data), 1024):
        raise ImageProblem(
            Problem.TOO_LARGE,
            f"The compressed image takes over {_MOST_TIMES} times its size in memory. Send it "
            "uncompressed.",
        )


def _jpeg(data: bytes, syntax: TransferSyntax) -> Codestream:
    """ITU-T T.81 section B.2.2 and T.87 section C.2.2: the frame header, and what follows it up
    to the first scan."""
    if data[:2] != b"\xff\xd8":
        raise _damaged(syntax)
    if syntax.codec is Codec.JPEG_LS:
        allowed: tuple[int, ...] = _SOF_JPEG_LS
    else:
        allowed = _SOF.get(syntax.uid, _SOF_LOSSLESS)
    found: Codestream | None = None
    says_colour = False
    at = 2
    while True:
        marker, kind, length = struct.unpack_from(">BBH", data, at)
        if marker == 0xFF and kind == 0xFF:  # a fill byte
            at += 1
            continue
        if marker != 0xFF or length < 2:
            raise _damaged(syntax)
        if kind == 0xDA:
            break
        if kind in allowed:
            if found is not None:
                raise _damaged(syntax)
            bits, rows, columns, samples = struct.unpack_from(">BHHB", data, at + 4)
            found = Codestream(rows, columns, samples, bits)
            says_colour = says_colour or bytes(data[at + 10 : at + 19 : 3]) == b"RGB"
        elif kind in (0xE0, 0xEE) and data[at + 4 : at + 9] in (b"JFIF\0", b"Adobe"):
            says_colour = True
        elif kind in _FRAMES:
            raise ImageProblem(
                Problem.MALFORMED,
                f"The compressed image is not of its transfer syntax, {syntax.name}. Export it "
                "again.",
            )
        at += 2 + length
    if found is None or (syntax.uid == JPEG_BASELINE and found.bits != 8):
        raise _damaged(syntax)
    return replace(found, says_colour=says_colour)


def with_colour(data: bytes, ybr: bool) -> bytes:
    """A JPEG that says whether it is YCbCr or RGB: with Adobe's APP14 segment, which every
    decoder asks first (ITU-T T.872 section 6.5.3)."""
    return data[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes((ybr,)) + data[2:]


def _jpeg_2000(data: bytes, syntax: TransferSyntax) -> Codestream:
    """ISO 15444-1 sections A.5.1 (SIZ) and A.6.1 (COD), and 15444-15 section A.2 (CAP)."""
    if data[:4] != b"\xff\x4f\xff\x51":
        raise _damaged(syntax)
    x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, samples = struct.unpack_from(">8IH", data, 8)
    components = [struct.unpack_from(">BBB", data, 42 + 3 * i) for i in range(min(samples, 4))]
    if not components or not tile_x or not tile_y or x0 >= x1 or y0 >= y1:
        raise _damaged(syntax)
    if any((depth, dx, dy) != (components[0][0], 1, 1) for depth, dx, dy in components):
        raise ImageProblem(
            Problem.UNUSABLE,
            "The JPEG 2000 image has components of different sizes or depths. Export it again.",
        )
    tiles = -(-(x1 - tile_x0) // tile_x) * -(-(y1 - tile_y0) // tile_y)
    high_throughput = _check_coding(data, syntax)
    if not 1 <= tiles <= _MOST_TILES or (syntax.uid in _HIGH_THROUGHPUT) != high_throughput:
        raise _damaged(syntax)
    depth = components[0][0]
    return Codestream(y1 - y0, x1 - x0, samples, (depth & 0x7F) + 1, bool(depth & 0x80))


def _check_coding(data: bytes, syntax: TransferSyntax) -> bool:
    """Whether blocks are coded for high throughput. Bounds what the main header asks for."""
    high_throughput = False
    at = 2
    while True:
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == 0xFF90:  # the first tile-part
            return high_throughput
        if marker == 0xFF50:
            high_throughput = True
        if marker == 0xFF52:
            layers, levels = struct.unpack_from(">HxB", data, at + 6)
            if not 1 <= layers <= _MOST_LAYERS or levels > _MOST_LEVELS:
                raise _damaged(syntax)
        if marker >> 8 != 0xFF or length < 2:
            raise _damaged(syntax)
        at += 2 + length


def _damaged(syntax: TransferSyntax) -> ImageProblem:
    return ImageProblem(
        Problem.MALFORMED,
        f"The compressed image is damaged or truncated, or no {syntax.name}. Export it again.",
    )
