"""RLE Lossless (PS3.5 annex G), decoded into a buffer whose size is known beforehand."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from models.imaging.image import ImageProblem, Problem


def decode(frame: bytes, pixels: int, samples: int, bytes_each: int) -> npt.NDArray[np.uint8]:
    """``uint8[samples, bytes_each, pixels]``: byte planes of one frame, most significant first.

    Each segment is PackBits, which Pillow decodes in C: a file of the shortest runs would keep
    a loop in Python busy for half a minute. What a segment has beyond the image is ignored.

    Raises:
        ImageProblem: when the segments do not fill the image.
    """
    planes = samples * bytes_each
    count, *offsets = struct.unpack_from("<16I", frame)
    bounds = [*offsets[:planes], len(frame)]
    if count != planes or bounds[0] < 64 or bounds != sorted(bounds):
        raise _damaged()
    out = np.empty((planes, pixels), np.uint8)
    for plane in range(planes):
        segment = frame[bounds[plane] : bounds[plane + 1]]
        try:
            out[plane] = np.asarray(Pillow.frombytes("L", (pixels, 1), segment, "packbits", "L"))[0]
        except ValueError:
            raise _damaged() from None
    return out.reshape(samples, bytes_each, pixels)


def _damaged() -> ImageProblem:
    return ImageProblem(
        Problem.MALFORMED,
        "The RLE pixel data does not fill the image that the header describes. Export it again.",
    )
