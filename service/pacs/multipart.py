"""The parts of a multipart/related body (RFC 2387) as they arrive, one at a time in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

MOST_PARTS: Final = 10_000
PART_HEADER_BYTES: Final = 4 * 2**10
"""Of one part; a sender writes 100."""


class MultipartProblem(ValueError):
    """The body is not what its boundary promises. The message is a sentence."""


class PartTooLarge(MultipartProblem):
    """A part, or the number of parts, is over its bound."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part."""

    media_type: str
    """Lower case, without parameters; empty where it has none."""
    data: bytes


class Parts:
    """Feed it chunks; take the parts that have become whole.

    Args:
        boundary: of the request's Content-Type.
        part_bytes: most bytes of a part.
        hold: told the bytes of parts as they arrive.

    Raises:
        MultipartProblem: the boundary cannot be one.
    """

    def __init__(self, boundary: bytes, part_bytes: int, hold: Callable[[int], None]) -> None:
        if not 1 <= len(boundary) <= 70:
            raise MultipartProblem("The Content-Type has no boundary of 1 to 70 characters.")
        self._most = part_bytes
        self._hold = hold
        self._whole: list[Part] = []
        self._chunks: list[bytes] = []
        self._bytes = 0
        self._header_bytes = 0
        self._name = self._value = b""
        self._media_type = ""
        self._count = 0
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )

    def feed(self, chunk: bytes) -> Iterator[Part]:
        """Parts that this chunk completes. Raises ``MultipartProblem``."""
        try:
            self._parser.write(chunk)
        except MultipartParseError:
            raise MultipartProblem("The multipart body is malformed.") from None
        whole, self._whole = self._whole, []
        yield from whole

    def close(self) -> None:
        """Raise ``MultipartProblem`` unless the closing boundary has come."""
        if not self._ended:
            raise MultipartProblem("The multipart body is cut short.")

    def _begin(self) -> None:
        self._count += 1
        if self._count > MOST_PARTS:
            raise PartTooLarge(f"Send at most {MOST_PARTS} instances in a request.")
        self._header_bytes = 0
        self._media_type = ""

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += self._header(data, start, end)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._header(data, start, end)

    def _header(self, data: bytes, start: int, end: int) -> bytes:
        self._header_bytes += end - start
        if self._header_bytes > PART_HEADER_BYTES:
            raise MultipartProblem("A part of the multipart body has too large a header.")
        return data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-type":
            media_type, _ = parse_options_header(self._value)
            self._media_type = media_type.decode("latin-1").lower()
        self._name = self._value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._bytes += end - start
        if self._bytes > self._most:
            raise PartTooLarge(f"Send instances of at most {self._most:,} bytes.")
        self._hold(end - start)
        self._chunks.append(data[start:end])

    def _end(self) -> None:
        self._whole.append(Part(self._media_type, b"".join(self._chunks)))
        self._chunks, self._bytes = [], 0

    def _finish(self) -> None:
        self._ended = True
