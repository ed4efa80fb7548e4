"""The images of a batch: parts of a form, or lines of JSON."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.multipart import parse_options_header

from service.body import Source, Upload, image_parts
from service.problems import ServiceProblem

OTHER_PARTS = 16
"""Parts of a form that are no image and are forgotten."""


class Line(BaseModel):
    """One line of ``application/x-ndjson``."""

    model_config = ConfigDict(strict=True)

    image: str
    """The file, in base64."""
    content_type: Annotated[str | None, Field(max_length=128)] = None


def read_sources(body: bytes, content_type: str | None, most: int) -> list[Source | ServiceProblem]:
    """The images, in order; what is wrong with one line alone stands in its place.

    Raises:
        ServiceProblem: 400 for a broken form or none at all, 413 for more than ``most`` images,
            415 for another Content-Type.
    """
    media_type, options = parse_options_header(content_type)
    if media_type == b"multipart/form-data":
        uploads = image_parts(body, options.get(b"boundary", b""), most + OTHER_PARTS)
        sources: list[Source | ServiceProblem] = list(uploads)
    elif media_type in (b"application/x-ndjson", b"application/jsonl", b"application/ndjson"):
        if body.count(b"\n") > 2 * most:  # blank lines among them
            raise _too_many(most)
        sources = [_line(line) for line in body.splitlines() if line.strip()]
    else:
        raise ServiceProblem(
            415, "Send multipart/form-data with parts named `image`, or application/x-ndjson."
        )
    if not sources:
        raise ServiceProblem(400, "The request holds no image.")
    if len(sources) > most:
        raise _too_many(most)
    return sources


def _line(line: bytes) -> Source | ServiceProblem:
    try:
        given = Line.model_validate_json(line)
        return Upload(base64.b64decode(given.image, validate=True), given.content_type)
    except (ValidationError, binascii.Error, ValueError):
        return ServiceProblem(
            400, 'The line is not {"image": "the file in base64", "content_type": "image/png"}.'
        )


def _too_many(most: int) -> ServiceProblem:
    return ServiceProblem(413, f"Send at most {most} images in a request.")
