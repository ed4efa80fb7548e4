"""Headers that show a picture otherwise than it is: an attack that changes no pixel.

Each finding is a note; none refuses an image, for every one also happens by accident. What is
provably no picture (a slope of 0 or infinity, a window that leaves one gray level) is refused where
it is rendered.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from models.imaging.dicom_values import Values
from models.imaging.image import SUSPECT, ImageProblem

_LUT_SHAPE: Final = 0x20500020
_INTENSITY_SIGN: Final = 0x00281041
WANTED: Final = frozenset((_INTENSITY_SIGN,))

_MOST_LOOKED_AT: Final = 4096
_HIDDEN: Final = 0.95
"""Share of pixels at black or white. A head in a brain window, air around it and bone, has 0.8."""
_FLAT_LEVELS: Final = 16
_RICH_VALUES: Final = 64


def polarity(values: Values, monochrome1: bool) -> list[str]:
    """Whether the elements that decide which end is white contradict each other.

    PS3.3 section C.8.11.3: MONOCHROME1 goes with an INVERSE presentation LUT and MONOCHROME2 with
    IDENTITY; and a Pixel Intensity Relationship Sign of 1 says that low values are dense, which
    such an image shows white. Angiograms, which have no presentation LUT, show them black.
    """
    shape = values.text(_LUT_SHAPE, "")
    if shape not in ("IDENTITY", "INVERSE"):
        return []
    expected = ("INVERSE", 1) if monochrome1 else ("IDENTITY", -1)
    if shape == expected[0] and _sign(values) in (expected[1], 0, None):
        return []
    return [f"{SUSPECT}which end is white is contradicted"]


def window(
    stored: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], table: npt.NDArray[np.uint8]
) -> list[str]:
    """Whether a window hides what the stored values hold.

    Args:
        stored: indices into ``table``, any shape.
    """
    flat = stored.reshape(-1)
    looked_at = flat[:: max(1, flat.size // _MOST_LOOKED_AT)]
    shown = table[looked_at]
    # what is black because it is the lowest value there, or white as the highest, is not hidden
    inside = shown[(looked_at != looked_at.min()) & (looked_at != looked_at.max())]
    if inside.size < _RICH_VALUES:
        return []
    notes = []
    counts = np.bincount(inside, minlength=256)
    if counts[0] + counts[255] >= _HIDDEN * inside.size:
        notes.append(f"{SUSPECT}the window hides most of the picture")
    low, high = np.searchsorted(np.cumsum(counts), (0.01 * inside.size, 0.99 * inside.size))
    if high - low < _FLAT_LEVELS and len(np.unique(looked_at)) >= _RICH_VALUES:
        notes.append(f"{SUSPECT}the window flattens the picture")
    return notes


def _sign(values: Values) -> int | None:
    try:
        raw = values.integer(_INTENSITY_SIGN, 0)
    except ImageProblem:
        return None
    return raw - 65_536 if raw >= 32_768 else raw
