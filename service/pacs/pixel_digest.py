"""Whether two data sets of one SOP Instance UID show the same pixels."""

from __future__ import annotations

import hashlib
from typing import Final

from models.imaging.dicom_header import read

_NATIVE: Final = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")


def pixel_digest(file: bytes) -> str:
    """Hex SHA-256 of a file's Pixel Data as encoded; of the whole file when it has none or cannot
    be read."""
    try:
        pixels = read(file, frozenset()).pixels
    except Exception:  # a hostile file may raise anything
        pixels = None
    return hashlib.sha256(file if pixels is None else pixels).hexdigest()


def same_encoding(one: str, other: str) -> bool:
    """Whether equal pixels have equal bytes in both transfer syntaxes."""
    return one == other or (one in _NATIVE and other in _NATIVE)
