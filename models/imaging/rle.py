"""RLE Lossless (PS3.5 annex G), decoded into a buffer whose size is known beforehand."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from models.imaging.image import ImageProblem, Problem


def decode(frame: bytes, pixels: int, samples: int, bytes_each: int) -> npt.NDArray[np.uint8]:
    """``uint8[samples, bytes_each, pixels]``: byte planes of one frame, most significant first.

    Raises:
        ImageProblem: when the segments do not hold exactly that.
    """
    planes = samples * bytes_each
    count, *offsets = struct.unpack_from("<16I", frame)
    bounds = [*offsets[:planes], len(frame)]
    if count != planes or bounds[0] < 64 or bounds != sorted(bounds):
        raise _damaged()
    out = np.empty((planes, pixels), np.uint8)
    for plane in range(planes):
        out[plane] = _segment(frame, bounds[plane], bounds[plane + 1], pixels)
    return out.reshape(samples, bytes_each, pixels)


def _segment(frame: bytes, at: int, end: int, size: int) -> npt.NDArray[np.uint8]:
    out = bytearray(size)
    done = 0
    while done < size:
        if at + 1 >= end:
            raise _damaged()
        control = frame[at]
        if control < 128:
            length = control + 1
            run = frame[at + 1 : min(at + 1 + length, end)]
            at += 1 + length
        elif control > 128:
            length = 257 - control
            run = frame[at + 1 : at + 2] * length
            at += 2
        else:
            at += 1
            continue
        if len(run) != length or done + length > size:
            raise _damaged()
        out[done : done + length] = run
        done += length
    return np.frombuffer(out, np.uint8)


def _damaged() -> ImageProblem:
    return ImageProblem(
        Problem.MALFORMED,
        "The RLE pixel data does not fill the image that the header describes. Export it again.",
    )
