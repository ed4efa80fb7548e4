"""One DICOM frame to display values: stored bits, modality, VOI, polarity (PS3.4 section N.2).

A gray pixel's display value depends on its stored value alone, so the whole chain is worked out
once as a table of at most 65,536 entries, and no header can make it cost more.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from models.imaging import rle
from models.imaging.bounds import check_size
from models.imaging.dicom_header import RLE_LOSSLESS, Header, fragments, read
from models.imaging.dicom_values import Values, unusable
from models.imaging.grayscale import WANTED as GRAYSCALE_TAGS
from models.imaging.grayscale import display_table
from models.imaging.image import ImageProblem, Limits, Problem

_SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES = 0x00280002, 0x00280004, 0x00280006, 0x00280008
_ROWS, _COLUMNS = 0x00280010, 0x00280011
_ALLOCATED, _STORED, _HIGH_BIT, _SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103
_WANTED: Final = GRAYSCALE_TAGS | {
    _SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES, _ROWS, _COLUMNS,
    _ALLOCATED, _STORED, _HIGH_BIT, _SIGNED,
}  # fmt: skip


def decode(data: bytes, limits: Limits) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """``uint8[Rows, Columns, 1 or 3]`` and notes.

    Raises:
        ImageProblem: with a sentence that names what the file would have to be.
    """
    header = read(data, _WANTED)
    values = Values(header.elements)
    if header.pixels is None:
        raise unusable("The DICOM object has no integer pixel data. Send an image object.")
    rows, columns = values.integer(_ROWS), values.integer(_COLUMNS)
    check_size(rows, columns, limits)
    if values.integer_string(_FRAMES, 1) != 1:
        raise unusable("The DICOM object has several frames. Send one frame at a time.")
    photometric = values.text(_PHOTOMETRIC)
    gray = photometric in ("MONOCHROME1", "MONOCHROME2")
    if not gray and photometric != "RGB":
        raise unusable(
            "The photometric interpretation is not read here. Send MONOCHROME1, MONOCHROME2 or RGB."
        )
    samples, allocated = values.integer(_SAMPLES), values.integer(_ALLOCATED)
    stored, signed = values.integer(_STORED), values.integer(_SIGNED, 0)
    if samples != (1 if gray else 3):
        raise ImageProblem(
            Problem.MALFORMED,
            "Samples per Pixel contradicts the photometric interpretation. Export it again.",
        )
    if allocated not in ((8, 16) if gray else (8,)) or not 1 <= stored <= allocated or signed > 1:
        raise unusable("Only gray images of 8 or 16 bits and RGB of 8 bits are read here.")
    if values.integer(_HIGH_BIT, stored - 1) != stored - 1:
        raise unusable("High Bit is not Bits Stored less one, a layout that DICOM has retired.")
    planar = samples == 3 and values.integer(_PLANAR, 0) == 1
    raw = _samples(header, rows * columns, samples, allocated, planar)
    if not gray:
        if stored != 8 or signed:
            raise unusable("Only RGB of 8 unsigned bits is read here.")
        notes: list[str] = []
        pixels = raw.astype(np.uint8).reshape(rows, columns, 3)
    else:
        table, notes = display_table(values, stored, bool(signed), photometric == "MONOCHROME1")
        mask = np.uint16(2**stored - 1)
        if stored < allocated and np.any(raw > mask):
            raw = raw & mask
            notes.append("unused high bits masked")
        pixels = table[raw].reshape(rows, columns, 1)
    if pixels.min() == pixels.max():
        raise unusable(
            "Every pixel has the same display value: the image is blank, or its window or rescale "
            "makes it so."
        )
    return pixels, tuple(notes)


def _samples(
    header: Header, pixels: int, samples: int, allocated: int, planar: bool
) -> npt.NDArray[np.uint16] | npt.NDArray[np.uint8]:
    """Stored samples, ``[pixels]`` when gray and ``[pixels, 3]`` when RGB."""
    assert header.pixels is not None
    bytes_each = allocated // 8
    size = pixels * samples * bytes_each
    if header.syntax == RLE_LOSSLESS:
        frame = b"".join(fragments(header.pixels))
        # [samples, bytes, pixels], most significant byte first
        planes = rle.decode(frame, pixels, samples, bytes_each)
        if bytes_each == 2:
            return np.frombuffer(np.ascontiguousarray(planes[0].T), ">u2").astype(np.uint16)
        return planes[0, 0] if samples == 1 else planes[:, 0].T
    if len(header.pixels) not in (size, size + size % 2):
        raise ImageProblem(
            Problem.MALFORMED,
            f"The header describes {size} bytes of pixels and the file has {len(header.pixels)}. "
            "Export it again.",
        )
    if bytes_each == 2:
        return np.frombuffer(header.pixels, "<u2", pixels)
    flat = np.frombuffer(header.pixels, np.uint8, pixels * samples)
    if samples == 1:
        return flat
    return flat.reshape(3, pixels).T if planar else flat.reshape(pixels, 3)
