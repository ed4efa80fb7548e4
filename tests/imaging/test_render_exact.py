"""What is shown is what pydicom's LUT functions give, to the last bit of the 8."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import changed
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from models.imaging import encode
from models.imaging.decode import decode

EVERY = np.arange(4096, dtype=np.uint16).reshape(64, 64, 1)
"""Each of the 12-bit values once."""
FILE = encode.dicom(EVERY, bits_stored=12)


@pytest.mark.filterwarnings("ignore:Applying a VOI LUT")
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("signed", [False, True])
def test_random_windows_and_rescales(function: str, signed: bool) -> None:
    rng = np.random.default_rng(len(function) + signed)
    for _ in range(40):
        slope, intercept = float(rng.choice([1, 2, 0.5, 1.37])), int(rng.choice([0, -1024, 3]))
        low = (-2048 if signed else 0) * slope + intercept
        high = (2047 if signed else 4095) * slope + intercept
        center = round(rng.uniform(low + 0.1 * (high - low), high - 0.1 * (high - low)), 1)
        data = changed(
            FILE, WindowCenter=center, WindowWidth=round(rng.uniform(2, high - low), 1),
            VOILUTFunction=function, RescaleSlope=slope, RescaleIntercept=intercept,
            PixelRepresentation=int(signed),
        )  # fmt: skip
        dataset = pydicom.dcmread(io.BytesIO(data))
        reference = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
        level = (reference - low) * (255 / (high - low))
        # within 1e-9 of a half the order of float operations decides; the next test is exact
        decided = np.abs(level - np.floor(level) - 0.5) > 1e-9
        found = decode(data).pixels[..., 0]
        assert np.array_equal(found[decided], np.floor(level + 0.5).astype(np.uint8)[decided])
        assert decided.mean() > 0.99


def test_whole_windows_are_the_standards_formula_in_exact_fractions() -> None:
    rng = np.random.default_rng(7)
    for _ in range(10):
        center, width = int(rng.integers(400, 3600)), int(rng.integers(2, 4096))
        found = decode(changed(FILE, WindowCenter=center, WindowWidth=width)).pixels.ravel()
        exact = [linear(value, center, width) for value in range(4096)]
        assert found.tolist() == exact


def linear(x: int, center: int, width: int) -> int:
    """PS3.3 section C.11.2.1.2.1 onto 0 to 255, halves upwards."""
    y = (Fraction(2 * x - 2 * center + 1, 2 * (width - 1)) + Fraction(1, 2)) * 255
    return int(min(max(y, Fraction(0)), Fraction(255)) + Fraction(1, 2))


def test_a_table_is_the_same_for_every_pixel_that_shares_a_value() -> None:
    shuffled: Any = np.random.default_rng(0).permutation(EVERY.ravel()).reshape(EVERY.shape)
    data = encode.dicom(shuffled, bits_stored=12, window=(1800, 900))
    plain = decode(encode.dicom(EVERY, bits_stored=12, window=(1800, 900))).pixels.ravel()
    assert np.array_equal(decode(data).pixels.ravel(), plain[shuffled.ravel()])
