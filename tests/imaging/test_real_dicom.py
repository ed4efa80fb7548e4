"""Every real DICOM file gets the right answer, or a refusal that says why."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from models.imaging.decode import decode

DATA = os.environ.get("LAZARET_DATA")
FILES = sorted(Path(DATA).glob("dicom/*.dcm")) if DATA else []

pytestmark = pytest.mark.skipif(
    not FILES, reason="set LAZARET_DATA to a folder that holds dicom/*.dcm"
)

LIKE = {
    # the same image, and the largest difference in grey levels of the display
    "cr_hip_rg2_jpegll.dcm": ("cr_hip_rg2_rle.dcm", 0),
    "cr_hip_rg2_jpeg2000_lossless.dcm": ("cr_hip_rg2_rle.dcm", 0),
    "cr_leg_rg3_jpegll.dcm": ("cr_leg_rg3_rle.dcm", 0),
    "cr_leg_rg3_jpeg_extended12.dcm": ("cr_leg_rg3_rle.dcm", 12),
    "xa_head_xa1_jpegll.dcm": ("xa_head_xa1_rle.dcm", 0),
    "cr_chest_rg1_jpeg2000.dcm": ("cr_chest_rg1_jpegls_near.dcm", 16),
}
"""Other compressions of one exposure. Of the last pair both are lossy."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_real_file_is_shown_as_the_standard_says(path: Path) -> None:
    image = decode(path.read_bytes())
    dataset = pydicom.dcmread(path)
    assert image.pixels.shape == (dataset.Rows, dataset.Columns, 1)
    assert image.suspicions == ()
    assert image.decoding.transfer_syntax == dataset.file_meta.TransferSyntaxUID
    if path.name in LIKE:
        other, most = LIKE[path.name]
        expected = decode(path.with_name(other).read_bytes()).pixels
        assert int(np.abs(image.pixels.astype(int) - expected).max()) <= most
    if not image.decoding.decoder.startswith("lazaret"):
        return  # held to an uncompressed twin above
    stored = apply_modality_lut(dataset.pixel_array, dataset)
    # the range of the stored values, after the rescale
    low, high = apply_modality_lut(np.array(stored_range(dataset)), dataset)
    shown = apply_voi_lut(stored, dataset, prefer_lut=False)
    if "WindowWidth" in dataset:
        low, high = stored_range(dataset)  # what pydicom maps a window onto
    shown = (shown - low) * (255 / (high - low))
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 255 - shown
    if "PixelPaddingValue" in dataset:
        shown[dataset.pixel_array == dataset.PixelPaddingValue] = 0
    assert float(np.abs(image.pixels[..., 0] - shown).max()) <= 0.5 + 1e-6


def stored_range(dataset: pydicom.Dataset) -> tuple[int, int]:
    low = -(2 ** (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0
    return low, low + 2**dataset.BitsStored - 1


def test_a_flipped_tag_gives_the_negative_and_says_so() -> None:
    name = "cr_chest_siim_jpeg.dcm", "cr_chest_siim_mono1_fake.dcm"
    right, fake = (decode(Path(DATA or ".", "dicom", file).read_bytes()) for file in name)
    assert np.array_equal(fake.pixels, 255 - right.pixels)
    assert "inverted MONOCHROME1" in fake.notes
