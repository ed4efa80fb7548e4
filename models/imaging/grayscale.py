"""From a stored gray value to a display value, 0 (black) to 255.

PS3.3 sections C.11.1 (Modality LUT), C.11.2 (VOI LUT) and C.7.6.3.1.2 (MONOCHROME1). Whose window
is shown is the model's ``RenderingPolicy``'s to say. By default the file's first window wins over
its VOI LUT; with neither, the whole range that the stored bits can express is shown, for a minimum
and maximum of the pixels would let a single pixel set the contrast.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from models.imaging.dicom_header import Element, item
from models.imaging.dicom_values import Values, unusable
from models.imaging.image import SUSPECT
from models.imaging.rendering import RenderingPolicy, Window

_PADDING, _PADDING_LIMIT = 0x00280120, 0x00280121
_CENTER, _WIDTH, _FUNCTION = 0x00281050, 0x00281051, 0x00281056
_INTERCEPT, _SLOPE = 0x00281052, 0x00281053
_MODALITY_LUT, _VOI_LUT = 0x00283000, 0x00283010
_LUT_DESCRIPTOR, _LUT_DATA = 0x00283002, 0x00283006
_LUT_SHAPE: Final = 0x20500020

WANTED: Final = frozenset(
    {
        _PADDING, _PADDING_LIMIT, _CENTER, _WIDTH, _FUNCTION, _INTERCEPT, _SLOPE,
        _MODALITY_LUT, _VOI_LUT, _LUT_SHAPE,
    }
)  # fmt: skip

Curve = npt.NDArray[np.float64]
_DEFAULT: Final = RenderingPolicy()
_BLOCK: Final = 32_768


@dataclass(frozen=True, slots=True)
class Display:
    """What each stored value is shown as."""

    table: npt.NDArray[np.uint8]
    """``uint8[2**stored_bits]``, read-only, indexed by the stored bits read as unsigned."""
    notes: tuple[str, ...]
    digest: str
    """``sha256:`` over the table."""


def display(
    values: Values,
    stored_bits: int,
    signed: bool,
    monochrome1: bool,
    policy: RenderingPolicy = _DEFAULT,
    padding_inside: bool = False,
) -> Display:
    """The table for these values; the last few are kept, for the slices of a series share one.

    Args:
        padding_inside: whether the image has values below and above those that are padding. Padding
            lies outside the values of a picture (PS3.3 section C.7.5.1.1.2), so these are shown.
    """
    elements = tuple((tag, found) for tag in WANTED if (found := values.element(tag)) is not None)
    return _display(elements, stored_bits, signed, monochrome1, policy, padding_inside)


def display_table(
    values: Values, stored_bits: int, signed: bool, monochrome1: bool
) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """``uint8[2**stored_bits]``, indexed by the stored bits read as unsigned, and notes: by the
    default policy."""
    found = display(values, stored_bits, signed, monochrome1)
    return found.table.copy(), list(found.notes)


@lru_cache(maxsize=32)  # a table has at most 64 KiB, and its lookup tables 128 KiB each
def _display(
    elements: tuple[tuple[int, Element], ...],
    stored_bits: int,
    signed: bool,
    monochrome1: bool,
    policy: RenderingPolicy,
    padding_inside: bool,
) -> Display:
    values = Values(dict(elements))
    notes: list[str] = []
    stored = np.arange(2**stored_bits, dtype=np.int64)
    if signed:
        stored[2 ** (stored_bits - 1) :] -= 2**stored_bits
    modality = _modality(values, stored, signed, notes)
    shown = np.floor(_voi(values, modality, signed, policy, notes) + 0.5)
    if monochrome1 or values.text(_LUT_SHAPE, "") == "INVERSE":
        shown = 255 - shown
        notes.append("inverted MONOCHROME1" if monochrome1 else "inverted presentation LUT")
    padding = padding_range(values, signed)
    if padding is not None and padding_inside:
        notes.append(f"{SUSPECT}padding lies among the picture's values and is shown")
    elif padding is not None and policy.padding == "shown":
        notes.append("padding shown as stored")
    elif padding is not None:
        shown[(stored >= padding[0]) & (stored <= padding[1])] = 0
        notes.append("padding shown black")
    table = shown.astype(np.uint8)
    table.flags.writeable = False
    return Display(table, tuple(notes), f"sha256:{hashlib.sha256(table.data).hexdigest()}")


def through(
    table: npt.NDArray[np.uint8], stored: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
) -> npt.NDArray[np.uint8]:
    """``table[stored]``, for values that all are inside the table."""
    flat = stored.reshape(-1)
    shown = np.empty(flat.size, np.uint8)
    # a block at a time: numpy widens the indices to 64 bits, and a block of those fits the cache
    for start in range(0, flat.size, _BLOCK):
        end = start + _BLOCK
        table.take(flat[start:end], out=shown[start:end], mode="clip")
    return shown.reshape(stored.shape)


def shows_range(values: Values, policy: RenderingPolicy) -> bool:
    """Whether neither a window nor a VOI LUT decides what is shown."""
    if policy.window != "file":
        return policy.window == "range"
    return values.element(_CENTER) is None and values.element(_VOI_LUT) is None


def padding_range(values: Values, signed: bool) -> tuple[int, int] | None:
    """The lowest and highest stored value that is padding (PS3.3 section C.7.5.1.1.2)."""
    if values.element(_PADDING) is None:
        return None
    first = _as_signed(values.integer(_PADDING), signed)
    last = _as_signed(values.integer(_PADDING_LIMIT, values.integer(_PADDING)), signed)
    return min(first, last), max(first, last)


def _modality(
    values: Values, stored: npt.NDArray[np.int64], signed: bool, notes: list[str]
) -> Curve:
    sequence = values.element(_MODALITY_LUT)
    if sequence is not None:
        notes.append("modality LUT")
        table = Values(item(sequence, frozenset((_LUT_DESCRIPTOR, _LUT_DATA))))
        return _lookup(table, stored.astype(np.float64), signed)[0]
    slope, intercept = (values.decimals(tag) for tag in (_SLOPE, _INTERCEPT))
    if len(slope) > 1 or len(intercept) > 1 or slope == (0.0,):
        raise unusable("The DICOM rescale slope must be one number other than 0.")
    if slope not in ((), (1.0,)) or intercept not in ((), (0.0,)):
        notes.append("rescaled")
    if slope and slope[0] < 0:
        notes.append(f"{SUSPECT}the rescale slope is negative and inverts the picture")
    return stored.astype(np.float64) * (slope or (1.0,))[0] + (intercept or (0.0,))[0]


def _voi(
    values: Values, modality: Curve, signed: bool, policy: RenderingPolicy, notes: list[str]
) -> Curve:
    """Display values in ``[0, 255]``."""
    if isinstance(policy.window, Window):
        notes.append("the model's window")
        fixed = policy.window
        return _window(modality, fixed.center, fixed.width, fixed.function)
    if policy.window == "range":
        notes.append("the model asks for the full range")
        return _full_range(modality)
    centers, widths = values.decimals(_CENTER), values.decimals(_WIDTH)
    if len(centers) != len(widths):
        raise unusable(
            "The DICOM window has a centre without a width, or a width without a centre."
        )
    if centers:
        which = policy.file_window - 1
        if which >= len(centers):
            raise unusable(
                f"The model shows window {policy.file_window} of a file, and the file has "
                f"{len(centers)}."
            )
        if len(centers) == 1:
            notes.append("window")
        else:
            notes.append("first window" if which == 0 else f"window {policy.file_window}")
        return _window(modality, centers[which], widths[which], values.text(_FUNCTION, "LINEAR"))
    sequence = values.element(_VOI_LUT)
    if sequence is not None:
        notes.append("VOI LUT")
        table = Values(item(sequence, frozenset((_LUT_DESCRIPTOR, _LUT_DATA))))
        shown, largest = _lookup(table, modality, signed)
        return shown * (255 / largest)
    notes.append("no window: full range of the stored bits")
    return _full_range(modality)


def _full_range(modality: Curve) -> Curve:
    low, high = float(modality.min()), float(modality.max())
    if low == high:
        raise unusable("The DICOM modality LUT gives every stored value the same output.")
    return (modality - low) * (255 / (high - low))


def _window(x: Curve, center: float, width: float, function: str) -> Curve:
    """PS3.3 sections C.11.2.1.2 and C.11.2.1.3, onto ``[0, 255]``."""
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise unusable("The DICOM VOI LUT function is none of LINEAR, LINEAR_EXACT and SIGMOID.")
    if width < 1 if function == "LINEAR" else width <= 0:
        raise unusable("The DICOM window width is too small to show anything.")
    if function == "SIGMOID":
        return 255 / (1 + np.exp(np.clip(-4 * (x - center) / width, -700, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return np.where(x <= center, 0.0, 255.0)
    return np.clip((x - center) / width + 0.5, 0, 1) * 255


def _lookup(lut: Values, x: Curve, signed: bool) -> tuple[Curve, int]:
    """The LUT's outputs at ``x`` and its largest possible output (PS3.3 C.11.1.1)."""
    count, first, bits = lut.shorts(_LUT_DESCRIPTOR, 3)
    count = count or 65_536
    data = lut.element(_LUT_DATA)
    if data is None or not 8 <= bits <= 16:
        raise unusable("The DICOM lookup table has no data, or entries that are not 8 to 16 bits.")
    if len(data.value) == 2 * count:
        entries = np.frombuffer(data.value, "<u2")
    elif bits == 8 and len(data.value) in (count, count + count % 2):
        entries = np.frombuffer(data.value, np.uint8, count).astype(np.uint16)
    else:
        raise unusable("The DICOM lookup table's data does not fit its descriptor.")
    largest = 2**bits - 1
    index = np.clip(np.round(x) - _as_signed(first, signed), 0, count - 1).astype(np.intp)
    return np.minimum(entries, largest)[index].astype(np.float64), largest


def _as_signed(value: int, signed: bool) -> int:
    """Reinterpret a 16-bit value as SS when the pixels are signed."""
    return value - 65_536 if signed and value >= 32_768 else value
