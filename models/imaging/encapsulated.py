"""Encapsulated Pixel Data (PS3.5 section A.4): which fragments are which frame."""

from __future__ import annotations

import struct
from typing import Final

from models.imaging.image import ImageProblem, Problem

_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
_MOST_FRAGMENTS: Final = 20_000


def frame(pixels: memoryview, index: int, frames: int) -> bytes:
    """The codestream of one frame.

    A single frame may have any number of fragments. Several frames have a fragment each, or
    an offset table (basic, or extended by its order) that tells where each begins.

    Raises:
        ImageProblem: when the fragments are not those of ``frames`` frames.
    """
    table, positions, fragments = _items(pixels)
    if frames == 1:
        return b"".join(fragments)
    if len(fragments) == frames:
        return bytes(fragments[index])
    if len(table) != 4 * frames:
        raise _damaged()
    starts = [*struct.unpack(f"<{frames}I", table), positions[-1] + 1]
    if starts != sorted(set(starts)) or not set(starts[:-1]) <= set(positions):
        raise _damaged()
    return b"".join(
        fragment
        for at, fragment in zip(positions, fragments, strict=True)
        if starts[index] <= at < starts[index + 1]
    )


def _items(pixels: memoryview) -> tuple[memoryview, list[int], list[memoryview]]:
    """The basic offset table; where each fragment's item starts, counted from the first one's;
    and the fragments. The delimiter at the end may be missing where a fragment ends the file."""
    found: list[memoryview] = []
    starts: list[int] = []
    at = 0
    while at < len(pixels) or not found:
        group, number, length = struct.unpack_from("<HHI", pixels, at)
        tag = group << 16 | number
        if tag == _SEQUENCE_END:
            break
        end = at + 8 + length
        if tag != _ITEM or end > len(pixels) or len(found) > _MOST_FRAGMENTS:
            raise _damaged()
        found.append(pixels[at + 8 : end])
        starts.append(at)
        at = end
    if len(found) < 2:
        raise _damaged()
    return found[0], [start - starts[1] for start in starts[1:]], found[1:]


def _damaged() -> ImageProblem:
    return ImageProblem(
        Problem.MALFORMED,
        "The compressed pixel data is damaged or truncated, or its fragments are not those of its "
        "frames. Export it again.",
    )
