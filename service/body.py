"""The image's bytes out of a request, within bounds that hold while they arrive."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from service.admission import Ticket
from service.problems import ServiceProblem
from service.question import Question, late

ENVELOPE_BYTES = 64 * 2**10
"""What a multipart form may add around its image."""
PARTS = 16
PART_HEADER_BYTES = 8 * 2**10
"""Most parts of a form and most header bytes in them all; a browser sends one part and 200."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as sent. Its name is dropped here: names carry patients'."""

    data: bytes
    declared: str | None
    """The media type that the sender gave, lower case and without parameters."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image that was sent as a bare array."""

    pixels: npt.NDArray[np.uint8]
    """``uint8[H, W, 1 or 3]``, C-contiguous; it may look into the request's body."""


Source = Upload | Pixels
"""What a diagnosis starts from."""


async def read_upload(
    request: Request, ticket: Ticket, limit: int, seconds: float, question: Question
) -> Upload:
    """Read the image: the ``image`` part of a form, or the whole body.

    Args:
        ticket: accounts for the bytes as they arrive.
        limit: most bytes of the image.
        seconds: longest time for the body to arrive.

    Raises:
        ServiceProblem: 400 for a broken form, 408, 413 (before reading where ``Content-Length``
            tells), 503 when memory is full, 504.
    """
    media_type, options = parse_options_header(request.headers.get("Content-Type"))
    form = media_type == b"multipart/form-data"
    body = await read_body(request, ticket, limit, seconds, question, ENVELOPE_BYTES if form else 0)
    if not form:
        return Upload(body, _declared(media_type))
    uploads = image_parts(body, options.get(b"boundary", b""), PARTS)
    if len(uploads) != 1:
        raise ServiceProblem(400, f"The form has {len(uploads)} parts named `image`; send one.")
    if len(uploads[0].data) > limit:
        raise _too_large(limit)
    return uploads[0]


async def read_body(
    request: Request,
    ticket: Ticket,
    limit: int,
    seconds: float,
    question: Question,
    envelope: int = 0,
) -> bytes:
    """The whole body: at most ``limit`` bytes and an ``envelope``. Raises as ``read_upload``."""
    allowed = question.left(seconds)
    try:
        async with asyncio.timeout(allowed):
            return await _read(request, ticket, limit, envelope)
    except TimeoutError:
        if allowed < seconds:
            raise late("receiving the body") from None
        raise ServiceProblem(408, f"The body took more than {seconds:g} s to arrive.") from None
    except ClientDisconnect:
        raise ServiceProblem(400, "The body ended before its declared length.") from None


async def _read(request: Request, ticket: Ticket, limit: int, envelope: int) -> bytes:
    length = request.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > limit + envelope:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit + envelope:
            raise _too_large(limit)
        ticket.hold(len(chunk))
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit: int) -> ServiceProblem:
    return ServiceProblem(413, f"Send at most {limit:,} bytes.")


def _declared(media_type: bytes) -> str | None:
    declared = media_type.decode("latin-1").lower()
    return None if declared in ("", "application/octet-stream") else declared


def image_parts(body: bytes, boundary: bytes, most: int) -> list[Upload]:
    """The parts named ``image`` of a form of at most ``most`` parts. Raises ``ServiceProblem``
    400."""
    form = _Form(most)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_header_field": form.header_name,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_headers_finished": form.headers_finished,
                "on_part_data": form.data,
                "on_end": form.end,
            },
        )
        parser.write(body)
        parser.finalize()
    except (MultipartParseError, ValueError):
        raise ServiceProblem(400, "The multipart form is malformed.") from None
    if not form.complete:
        raise ServiceProblem(400, "The multipart form is cut short.")
    return [Upload(b"".join(chunks), _declared(kind)) for kind, chunks in form.images]


class _Form:
    """Callbacks of the parser; keeps the ``image`` parts and forgets the others."""

    def __init__(self, most: int) -> None:
        self.images: list[tuple[bytes, list[bytes]]] = []
        """Media type and content of each."""
        self._most = most
        self.complete = False
        self._parts = 0
        self._header_bytes = 0
        self._name = b""
        self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._wanted = False

    def begin(self) -> None:
        self._parts += 1
        if self._parts > self._most:
            raise MultipartParseError("too many parts")
        self._headers = {}

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._wanted = options.get(b"name") == b"image"
        if self._wanted:
            media_type, _ = parse_options_header(self._headers.get(b"content-type"))
            self.images.append((media_type, []))

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted:
            self.images[-1][1].append(data[start:end])

    def end(self) -> None:
        self.complete = True

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > PART_HEADER_BYTES * max(1, self._most // PARTS):
            raise MultipartParseError("too many header bytes")
