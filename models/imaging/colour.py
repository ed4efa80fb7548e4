"""Colour as stored to RGB: YBR (PS3.3 section C.7.6.3.1.2) and palettes (section C.7.9)."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from models.imaging.dicom_values import Values, unusable

Pixels = npt.NDArray[np.uint8]

_BLOCK: Final = 65_536
"""Pixels that are converted at once, in floats: a large image must not take 24 bytes a pixel."""

_DESCRIPTORS: Final = (0x00281101, 0x00281102, 0x00281103)
_ENTRIES: Final = (0x00281201, 0x00281202, 0x00281203)
WANTED: Final = frozenset((*_DESCRIPTORS, *_ENTRIES))

# columns of the inverse of section C.7.6.3.1.2's matrix: what Cb - 128 and Cr - 128 add to each
_FROM_CB: Final = (0.0, -0.344136, 1.772)
_FROM_CR: Final = (1.402, -0.714136, 0.0)


def ybr_to_rgb(pixels: Pixels) -> Pixels:
    """``uint8[..., 3]`` of YBR_FULL to RGB, rounded to the nearest and clipped."""
    steps = np.arange(256, dtype=np.float32) - 128
    stored = np.ascontiguousarray(pixels).reshape(-1, 3)
    rgb = np.empty_like(stored)
    for start in range(0, len(stored), _BLOCK):
        luma, cb, cr = stored[start : start + _BLOCK].T
        for channel, (by_cb, by_cr) in enumerate(zip(_FROM_CB, _FROM_CR, strict=True)):
            shown = luma.astype(np.float32)
            if by_cb:
                shown += (by_cb * steps).astype(np.float32)[cb]
            if by_cr:
                shown += (by_cr * steps).astype(np.float32)[cr]
            shown = np.clip(np.floor(shown + 0.5), 0, 255)
            rgb[start : start + _BLOCK, channel] = shown
    return rgb.reshape(pixels.shape)


def palette(values: Values, stored_bits: int, signed: bool) -> npt.NDArray[np.uint8]:
    """``uint8[2**stored_bits, 1 or 3]``, gray if every entry is, indexed by the stored bits read
    as unsigned. Values below or above the palette have its first or last entry. Of entries of 16
    bits the high byte is shown.

    Raises ``ImageProblem`` for palettes that are segmented or do not fit their descriptors.
    """
    described = [values.shorts(tag, 3) for tag in _DESCRIPTORS]
    count, first, bits = described[0]
    if any(other != described[0] for other in described) or bits not in (8, 16):
        raise unusable(
            "The colour palette's descriptors differ, or its entries are not 8 or 16 bits."
        )
    count = count or 65_536
    entries = np.stack([_channel(values, tag, count, bits) for tag in _ENTRIES], axis=1)
    if np.all(entries == entries[:, :1]):
        entries = entries[:, :1]
    stored = np.arange(2**stored_bits)
    if signed:
        stored[2 ** (stored_bits - 1) :] -= 2**stored_bits
        first = first - 65_536 if first >= 32_768 else first
    shown: Pixels = entries[np.clip(stored - first, 0, count - 1)]
    return shown


def _channel(values: Values, tag: int, count: int, bits: int) -> npt.NDArray[np.uint8]:
    data = values.element(tag)
    if data is None:
        raise unusable("The colour palette is segmented or missing. Export the image as RGB.")
    if len(data.value) == 2 * count:
        entries = np.frombuffer(data.value, "<u2")
        return (entries >> 8 if bits == 16 else np.minimum(entries, 255)).astype(np.uint8)
    if bits == 8 and len(data.value) in (count, count + count % 2):
        return np.frombuffer(data.value, np.uint8, count)
    raise unusable("The colour palette's data does not fit its descriptor.")
