"""The id by which a request is found again in answers, records and logs."""

from __future__ import annotations

import re
from uuid import uuid4

from fastapi import Request

HEADER = "X-Request-ID"
# What has the form of a DICOM UID is one, and identifies a patient's study (PS3.15 Annex E).
_ACCEPTABLE = re.compile(r"(?![0-9]+(\.[0-9]+){3,}$)[A-Za-z0-9._:-]{1,128}")


def plain_id(*given: str) -> str:
    """The first plain one of ``given``, or a new one."""
    return next((name for name in given if _ACCEPTABLE.fullmatch(name)), uuid4().hex)


def adopt(request: Request, name: str | None) -> None:
    """Take the id that the request's own document brings, if it is plain and no header brought
    one."""
    if name is not None and _ACCEPTABLE.fullmatch(name):
        given = request.headers.get(HEADER, "")
        if not _ACCEPTABLE.fullmatch(given):
            request.state.request_id = name


def request_id_of(request: Request) -> str:
    """The caller's ``X-Request-ID`` if it is plain, else a new one; the same on every call."""
    known: str | None = getattr(request.state, "request_id", None)
    if known is None:
        given = request.headers.get(HEADER, "")
        known = given if _ACCEPTABLE.fullmatch(given) else uuid4().hex
        request.state.request_id = known
    return known
