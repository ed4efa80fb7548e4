"""Colour as the standard stores it becomes RGB."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import GRAY, TWELVE, changed, edited, refused
from pydicom.pixels import apply_color_lut, convert_color_space
from pydicom.uid import RLELossless

from models.imaging import Problem, encode
from models.imaging.decode import decode

RGB = np.random.default_rng(1).integers(0, 256, (24, 32, 3)).astype(np.uint8)


def coloured(pixels: Any, **elements: Any) -> bytes:
    return changed(encode.dicom(RGB), PixelData=np.ascontiguousarray(pixels).tobytes(), **elements)


@pytest.mark.parametrize("planar", [0, 1])
def test_ybr_full_by_pixel_and_by_plane(planar: int) -> None:
    stored = RGB.transpose(2, 0, 1) if planar else RGB
    file = coloured(stored, PhotometricInterpretation="YBR_FULL", PlanarConfiguration=planar)
    # PS3.3 section C.7.6.3.1.2, solved for R, G and B
    matrix = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    expected = (RGB.astype(float) - (0, 128, 128)) @ np.linalg.inv(matrix).T
    assert np.abs(decode(file).pixels - np.clip(expected, 0, 255)).max() < 0.6
    assert (
        int(
            np.abs(
                decode(file).pixels.astype(int) - convert_color_space(RGB, "YBR_FULL", "RGB")
            ).max()
        )
        <= 1
    )
    assert decode(file).notes == ("YBR to RGB",)


def test_ybr_black_white_and_primaries_are_exact() -> None:
    ybr = np.zeros((16, 16, 3), np.uint8)
    for column, (stored, _) in enumerate(PRIMARIES):
        ybr[:, column] = stored
    file = changed(encode.dicom(ybr), PhotometricInterpretation="YBR_FULL")
    for column, (_, shown) in enumerate(PRIMARIES):
        assert decode(file).pixels[0, column].tolist() == shown


PRIMARIES = (
    ([0, 128, 128], [0, 0, 0]),
    ([255, 128, 128], [255, 255, 255]),
    ([76, 85, 255], [254, 0, 0]),
    ([128, 128, 128], [128, 128, 128]),
)


def test_ybr_full_422_shares_chroma_between_two_pixels() -> None:
    luma = RGB[..., 0]
    chroma = RGB[:, ::2, 1:]
    stored = np.concatenate((luma.reshape(24, 16, 2), chroma), axis=2)
    file = coloured(stored, PhotometricInterpretation="YBR_FULL_422")
    full = np.concatenate((luma[..., None], np.repeat(chroma, 2, axis=1)), axis=2)
    same = coloured(full, PhotometricInterpretation="YBR_FULL")
    assert np.array_equal(decode(file).pixels, decode(same).pixels)


def with_palette(pixels: Any, count: int, first: int, bits: int, entries: Any) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(encode.dicom(pixels)))
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for channel in range(3):
        wide = entries[:, channel].astype("<u2" if bits == 16 else np.uint8)
        dataset.add_new(0x00281101 + channel, "US", [count % 65536, first, bits])
        dataset.add_new(0x00281201 + channel, "OW", wide.tobytes())
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def test_palettes_of_8_and_16_bits_show_their_entries() -> None:
    table = np.random.default_rng(2).integers(0, 256, (256, 3))
    expected = table.astype(np.uint8)[GRAY[..., 0]]
    assert np.array_equal(decode(with_palette(GRAY, 256, 0, 8, table)).pixels, expected)
    assert np.array_equal(decode(with_palette(GRAY, 256, 0, 16, table * 257)).pixels, expected)
    assert np.array_equal(decode(with_palette(GRAY, 256, 0, 16, table << 8)).pixels, expected)
    assert decode(with_palette(GRAY, 256, 0, 8, table)).notes == ("palette to RGB",)


def test_values_outside_a_palette_have_its_ends() -> None:
    table = np.random.default_rng(3).integers(0, 256, (100, 3))
    file = with_palette(GRAY, 100, 50, 8, table)
    expected = table.astype(np.uint8)[np.clip(GRAY[..., 0].astype(int) - 50, 0, 99)]
    assert np.array_equal(decode(file).pixels, expected)


def test_a_palette_of_65536_entries_is_written_as_0() -> None:
    table = np.random.default_rng(4).integers(0, 65536, (65536, 3))
    wide = (TWELVE * 16).astype(np.uint16)
    assert np.array_equal(
        decode(with_palette(wide, 65536, 0, 16, table)).pixels,
        (table >> 8).astype(np.uint8)[wide[..., 0]],
    )


def test_a_gray_palette_is_gray() -> None:
    table = np.repeat(255 - np.arange(256)[:, None], 3, axis=1)
    file = with_palette(GRAY, 256, 0, 8, table)
    assert np.array_equal(decode(file).pixels, 255 - GRAY)
    assert decode(file).notes == ("palette to gray",)


def test_palettes_agree_with_pydicom() -> None:
    table = np.random.default_rng(5).integers(0, 65536, (256, 3))
    file = with_palette(GRAY, 256, 0, 16, table)
    reference = apply_color_lut(GRAY[..., 0], pydicom.dcmread(io.BytesIO(file)))
    assert np.array_equal(decode(file).pixels, reference >> 8)


@pytest.mark.parametrize(
    "described",
    [
        (256, 0, 12, np.zeros((256, 3), int)),
        (300, 0, 8, np.zeros((256, 3), int)),
    ],
    ids=["12 bits", "too short"],
)
def test_a_palette_that_does_not_fit_is_refused(described: Any) -> None:
    refused(with_palette(GRAY, *described), Problem.UNUSABLE)


def test_rle_carries_ybr() -> None:
    dataset = pydicom.dcmread(io.BytesIO(coloured(RGB, PhotometricInterpretation="YBR_FULL")))
    dataset.compress(RLELossless, generate_instance_uid=False)
    stream = io.BytesIO()
    dataset.save_as(stream)
    plain = coloured(RGB, PhotometricInterpretation="YBR_FULL")
    assert np.array_equal(decode(stream.getvalue()).pixels, decode(plain).pixels)


@pytest.mark.parametrize(
    ("photometric", "problem"),
    [
        ("YBR_ICT", Problem.MALFORMED),
        ("YBR_RCT", Problem.MALFORMED),
        ("YBR_PARTIAL_422", Problem.UNUSABLE),
        ("CMYK", Problem.UNUSABLE),
        ("HSV", Problem.UNUSABLE),
    ],
)
def test_colour_that_cannot_be_is_refused(photometric: str, problem: Problem) -> None:
    refused(coloured(RGB, PhotometricInterpretation=photometric), problem)


def test_a_colour_profile_is_not_applied_and_said_so() -> None:
    file = changed(encode.dicom(RGB), ICCProfile=b"\0" * 128)
    assert np.array_equal(decode(file).pixels, RGB)
    assert "ICC profile not applied" in decode(file).notes


def test_gray_of_three_samples_is_refused() -> None:
    refused(edited(SamplesPerPixel=3), Problem.MALFORMED)
