"""Uncompressed Pixel Data (PS3.5 section 8): the samples of one frame, where possible uncopied."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.imaging.image import ImageProblem, Problem


def frame(
    pixels: memoryview,
    index: int,
    frames: int,
    *,
    rows: int,
    columns: int,
    samples: int,
    allocated: int,
    planar: bool,
    halved: bool,
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """``[rows, columns, samples]``, ``uint8`` or ``uint16`` by ``allocated``.

    Args:
        planar: colour by plane (PS3.3 section C.7.6.3.1.3).
        halved: YBR_FULL_422, whose Cb and Cr are stored for every second pixel (section
            C.7.6.3.1.2).

    Raises:
        ImageProblem: the file holds more or fewer bytes than ``frames`` frames take.
    """
    size = rows * columns * (2 if halved else samples) * allocated // 8
    if len(pixels) not in (size * frames, size * frames + size * frames % 2):
        raise ImageProblem(
            Problem.MALFORMED,
            f"The header describes {size * frames} bytes of pixels and the file has "
            f"{len(pixels)}. Export it again.",
        )
    flat = np.frombuffer(pixels[index * size : (index + 1) * size], f"<u{allocated // 8}")
    if halved:
        pairs = flat.reshape(rows, columns // 2, 4)  # Y Y Cb Cr
        luma = pairs[..., :2].reshape(rows, columns, 1)
        chroma = np.repeat(pairs[..., 2:], 2, axis=1)
        return np.concatenate((luma, chroma), axis=2)
    if planar:
        return flat.reshape(samples, rows, columns).transpose(1, 2, 0)
    return flat.reshape(rows, columns, samples)
