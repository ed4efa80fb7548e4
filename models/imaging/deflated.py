"""Deflated data sets (PS3.5 section A.5), inflated inside a bound."""

from __future__ import annotations

import zlib

from models.imaging.image import ImageProblem, Limits, Problem

# Radiographs deflate 2 to 4 times, blank borders included; structured reports 20 times.
_MOST_TIMES = 100


def inflate(data: memoryview, limits: Limits) -> bytes:
    """The data set. Raises ``ImageProblem`` before it is larger than a file may be, or than
    100 times what was sent."""
    bound = min(limits.file_bytes, max(_MOST_TIMES * len(data), 65_536))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = inflater.decompress(data, bound)
    except zlib.error:
        raise ImageProblem(
            Problem.MALFORMED, "The deflated DICOM data set is damaged. Export it again."
        ) from None
    if not inflater.eof:
        if len(found) < bound:
            raise ImageProblem(
                Problem.MALFORMED, "The deflated DICOM data set is truncated. Send it again."
            )
        raise ImageProblem(
            Problem.TOO_LARGE,
            f"The deflated DICOM data set has over {bound} bytes. Send it uncompressed.",
        )
    return found
