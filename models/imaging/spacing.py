"""How far apart pixels are (PS3.3 sections 10.7.1.3 and C.7.6.3.1.7)."""

from __future__ import annotations

from typing import Final

from models.imaging.dicom_values import Values
from models.imaging.image import ImageProblem

# in the patient where calibrated, else at the detector, else at the scanner's glass
_SPACINGS: Final = (0x00280030, 0x00181164, 0x00182010)
_ASPECT_RATIO: Final = 0x00280034
WANTED: Final = frozenset((*_SPACINGS, _ASPECT_RATIO))


def millimetres(values: Values) -> tuple[float, float] | None:
    """Between rows and between columns; None where the file does not say so in numbers above 0.
    Nothing is resampled for it, so what cannot be read is no reason to refuse an image."""
    return next((pair for tag in _SPACINGS if (pair := _pair(values, tag))), None)


def square(values: Values) -> bool:
    """Whether pixels are as high as wide, within one per cent, or nothing says otherwise."""
    pair = millimetres(values) or _pair(values, _ASPECT_RATIO)
    return pair is None or abs(pair[0] / pair[1] - 1) <= 0.01


def _pair(values: Values, tag: int) -> tuple[float, float] | None:
    try:
        numbers = values.decimals(tag)
    except ImageProblem:
        return None
    if len(numbers) != 2 or min(numbers) <= 1e-6:
        return None
    return numbers[0], numbers[1]
