"""DICOM pixels become the display values that the standard defines, or a typed refusal."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import GRAY, TWELVE, edited, element, refused, rounded, shown
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from models.imaging import Image, ImageProblem, Problem, codecs, encode
from models.imaging.decode import decode


@pytest.mark.parametrize("rle", [False, True])
def test_what_we_encode_comes_back(rle: bool) -> None:
    image = decode(encode.dicom(GRAY, rle=rle))
    assert np.array_equal(image.pixels, GRAY)
    assert image.media_type == "application/dicom"
    odd = GRAY[:23, :31]
    assert np.array_equal(decode(encode.dicom(odd, rle=rle)).pixels, odd)
    twelve = encode.dicom(TWELVE, bits_stored=12, rle=rle)
    assert np.array_equal(decode(twelve).pixels, rounded(TWELVE * (255 / 4095)))
    assert decode(twelve).digest == decode(edited()).digest
    assert encode.dicom(GRAY, rle=rle) == encode.dicom(GRAY, rle=rle)


@pytest.mark.parametrize("pixels", [GRAY, TWELVE], ids=["8 bits", "12 bits"])
def test_pydicom_reads_the_same_values_from_what_we_encode(pixels: Any) -> None:
    for rle in (False, True):
        bits = 12 if pixels is TWELVE else None
        dataset = pydicom.dcmread(io.BytesIO(encode.dicom(pixels, bits_stored=bits, rle=rle)))
        assert np.array_equal(dataset.pixel_array, pixels[..., 0])
        assert dataset.PatientName == "PHANTOM^CHEST"


@pytest.mark.parametrize(
    ("center", "width", "function"),
    [
        (2000, 900, "LINEAR"), (2000.5, 1, "LINEAR"), (1500, 700.5, "LINEAR_EXACT"),
        (1500, 0.5, "LINEAR_EXACT"), (2100, 600, "SIGMOID"), (-100, 3000, None),
    ],
)  # fmt: skip
def test_windows_follow_the_standard(center: float, width: float, function: str | None) -> None:
    extra = {} if function is None else {"VOILUTFunction": function}
    data = edited(WindowCenter=center, WindowWidth=width, **extra)
    x = TWELVE[..., 0].astype(float)
    if function == "SIGMOID":
        y = 255 / (1 + np.exp(-4 * (x - center) / width))
    elif function == "LINEAR_EXACT":
        y = np.clip((x - center) / width + 0.5, 0, 1) * 255
    else:  # PS3.3 C.11.2.1.2.1, its pseudo-code word for word
        y = ((x - (center - 0.5)) / max(width - 1, 1e-9) + 0.5) * 255
        y = np.where(x <= center - 0.5 - (width - 1) / 2, 0, y)
        y = np.where(x > center - 0.5 + (width - 1) / 2, 255, y)
    assert np.array_equal(shown(data), rounded(y))


def test_signed_pixels_rescale_window_and_garbage_in_high_bits() -> None:
    stored = (TWELVE.astype(int) - 2048)[..., 0]
    raw = ((stored & 0xFFF) | 0xA000).astype("<u2")
    data = edited(
        PixelData=raw.tobytes(), PixelRepresentation=1, RescaleSlope=2, RescaleIntercept=-100,
        WindowCenter=300, WindowWidth=2001,
    )  # fmt: skip
    y = np.clip((stored * 2 - 100 - 299.5) / 2000 + 0.5, 0, 1) * 255
    assert np.array_equal(shown(data), rounded(y))
    assert decode(data).notes == ("rescaled", "window", "unused high bits masked")


def test_the_first_of_several_windows_is_shown() -> None:
    data = edited(WindowCenter=[1000, 2000], WindowWidth=[500, 4000])
    assert np.array_equal(shown(data), shown(edited(WindowCenter=1000, WindowWidth=500)))
    assert "first window" in decode(data).notes


def test_without_a_window_the_stored_range_sets_contrast_not_the_pixels() -> None:
    data = edited((TWELVE // 4 + 7).astype(np.uint16), WindowCenter=None, WindowWidth=None)
    assert np.array_equal(shown(data), rounded((TWELVE[..., 0] // 4 + 7) * (255 / 65535)))


def test_monochrome1_is_inverted_once() -> None:
    plain = shown(edited())
    one = edited(PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(shown(one), 255 - plain)
    both = edited(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    assert np.array_equal(shown(both), 255 - plain)
    assert np.array_equal(shown(edited(PresentationLUTShape="INVERSE")), 255 - plain)


def lut(descriptor: list[int], entries: Any) -> Sequence:
    item = Dataset()
    item.add_new(0x00283002, "US", descriptor)
    item.add_new(0x00283006, "OW", np.asarray(entries, dtype="<u2").tobytes())
    return Sequence([item])


def test_lookup_tables_agree_with_pydicom() -> None:
    modality = lut([1000, 500, 16], 4095 - np.arange(1000) * 4)
    voi = lut([4096, 0, 16], np.sqrt(np.arange(4096) / 4095) * 65535)
    data = edited(
        ModalityLUTSequence=modality, VOILUTSequence=voi,
        RescaleSlope=None, RescaleIntercept=None, WindowCenter=None, WindowWidth=None,
    )  # fmt: skip
    dataset = pydicom.dcmread(io.BytesIO(data))
    reference = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    assert np.array_equal(shown(data), rounded(reference * (255 / 65535)))
    assert decode(data).notes == ("modality LUT", "VOI LUT")


def test_a_table_of_ten_bits_spans_the_display() -> None:
    voi = lut([4096, 0, 10], np.arange(4096) // 4)
    data = edited(VOILUTSequence=voi, WindowCenter=None, WindowWidth=None)
    assert np.array_equal(shown(data), rounded((TWELVE[..., 0] // 4) * (255 / 1023)))


def test_padding_is_black_whatever_the_window_makes_of_it() -> None:
    dataset = pydicom.dcmread(io.BytesIO(edited(PhotometricInterpretation="MONOCHROME1")))
    dataset.add_new("PixelPaddingValue", "US", 0)
    stream = io.BytesIO()
    dataset.save_as(stream)
    data = stream.getvalue()
    assert shown(data)[0, 0] == 0
    assert shown(data)[0, 1] == 255


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("rle", [False, True])
def test_rgb(planar: int, rle: bool) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    data = rgb.transpose(2, 0, 1).tobytes() if planar else rgb.tobytes()
    file = edited(
        GRAY, PhotometricInterpretation="RGB", SamplesPerPixel=3, PlanarConfiguration=planar,
        PixelData=data,
    )  # fmt: skip
    if rle:
        dataset = pydicom.dcmread(io.BytesIO(file))
        dataset.compress("1.2.840.10008.1.2.5")
        stream = io.BytesIO()
        dataset.save_as(stream)
        file, rgb = stream.getvalue(), dataset.pixel_array
    assert np.array_equal(decode(file).pixels, rgb)


def test_a_deflated_file_is_the_same_image() -> None:
    dataset = pydicom.dcmread(io.BytesIO(edited()))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    stream = io.BytesIO()
    dataset.save_as(stream)
    data = stream.getvalue()
    assert decode(data).digest == decode(edited()).digest
    refused(data[:-20], Problem.MALFORMED)
    refused(data[:400] + b"\0\1\2" + data[403:], Problem.MALFORMED)


def test_overlay_planes_are_not_drawn_and_said_so() -> None:
    dataset = pydicom.dcmread(io.BytesIO(edited()))
    dataset.add_new(0x60000010, "US", 24)
    dataset.add_new(0x60003000, "OW", b"\xff" * 96)
    stream = io.BytesIO()
    dataset.save_as(stream)
    image = decode(stream.getvalue())
    assert image.digest == decode(edited()).digest
    assert "overlays not drawn" in image.notes


def test_encapsulated_pixels_may_lack_their_end_and_be_followed_by_more() -> None:
    good = encode.dicom(GRAY, rle=True)
    assert decode(good[:-8]).digest == decode(good).digest
    padding = element(0xFFFCFFFC, b"OB", bytes(64))
    assert decode(good + padding).digest == decode(good).digest
    assert decode(encode.dicom(GRAY) + padding).digest == decode(good).digest
    assert decode(encode.dicom(GRAY) + bytes(512)).digest == decode(good).digest
    refused(good[:-40], Problem.MALFORMED)


def test_a_modality_table_wins_over_a_rescale() -> None:
    modality = lut([4096, 0, 16], 4095 - np.arange(4096))
    both = edited(ModalityLUTSequence=modality, RescaleSlope=3, RescaleIntercept=9)
    assert np.array_equal(shown(both), rounded((4095 - TWELVE[..., 0]) * (255 / 4095)))


def test_a_table_whose_first_value_is_signed() -> None:
    stored = (TWELVE.astype(int) - 2048)[..., 0]
    item = Dataset()
    item.add_new(0x00283002, "US", [4096, 65_536 - 2048, 12])
    item.add_new(0x00283006, "OW", np.arange(4096)[::-1].astype("<u2").tobytes())
    data = edited(
        PixelData=(stored & 0xFFF).astype("<u2").tobytes(), PixelRepresentation=1,
        VOILUTSequence=Sequence([item]), WindowCenter=None, WindowWidth=None,
    )  # fmt: skip
    assert np.array_equal(shown(data), rounded((2047 - stored) * (255 / 4095)))


def test_sixteen_bit_tables_of_65536_entries() -> None:
    wide = (TWELVE * 16).astype(np.uint16)
    curve = np.arange(65_536)[::-1]
    data = edited(wide, VOILUTSequence=lut([0, 0, 16], curve), WindowCenter=None, WindowWidth=None)
    assert np.array_equal(
        shown(data), rounded((65_535 - wide[..., 0].astype(int)) * (255 / 65_535))
    )


def test_implicit_files_and_files_without_preamble() -> None:
    dataset = pydicom.dcmread(io.BytesIO(encode.dicom(TWELVE, bits_stored=12)))
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    stream = io.BytesIO()
    dataset.save_as(stream, implicit_vr=True, little_endian=True)
    data = stream.getvalue()
    assert decode(data).digest == decode(edited()).digest
    assert decode(data[132:], "application/dicom").digest == decode(edited()).digest
    with pytest.raises(ImageProblem, match="not a PNG, JPEG or DICOM"):
        decode(data[132:])
    bare = data[132:]
    bare = bare[12 + int.from_bytes(bare[8:12], "little") :]  # behind the group's length
    assert decode(bare, "application/dicom").digest == decode(edited()).digest


def syntax(uid: str) -> bytes:
    """A file that claims a transfer syntax of the same length as the real one's, or shorter."""
    padded = uid.encode().ljust(20, b"\0")
    return encode.dicom(GRAY).replace(b"1.2.840.10008.1.2.1\0", padded, 1)


@pytest.mark.parametrize(
    ("uid", "name"),
    [
        (ExplicitVRBigEndian, "Big Endian"),
        ("1.2.840.10008.1.2.1.99"[:20], "not in the DICOM standard"),
        ("1.2.840.10008.1.1", "not in the DICOM standard"),
        ("1.2.3.4", "not in the DICOM standard"),
    ],
)
def test_other_transfer_syntaxes_are_named(uid: str, name: str) -> None:
    assert name in refused(syntax(uid), Problem.UNSUPPORTED)


def test_a_syntax_whose_decoder_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(codecs, "_installed", lambda: False)
    dataset = pydicom.dcmread(io.BytesIO(encode.dicom(GRAY)))
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    stream = io.BytesIO()
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51"])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(stream)
    said = refused(stream.getvalue(), Problem.UNSUPPORTED)
    assert "JPEG 2000" in said
    assert "pip install 'lazaret[dicom]'" in said


@pytest.mark.parametrize(
    ("elements", "problem"),
    [
        ({"RescaleSlope": "0"}, Problem.UNUSABLE),
        ({"RescaleSlope": "1E400"}, Problem.UNUSABLE),
        ({"RescaleIntercept": "nan"}, Problem.UNUSABLE),
        ({"WindowWidth": 0}, Problem.UNUSABLE),
        ({"WindowWidth": -5}, Problem.UNUSABLE),
        ({"WindowWidth": None}, Problem.UNUSABLE),
        ({"WindowCenter": 90000, "WindowWidth": 10}, Problem.UNUSABLE),
        ({"VOILUTFunction": "SMOOTH"}, Problem.UNUSABLE),
        ({"NumberOfFrames": 2}, Problem.UNUSABLE),
        ({"NumberOfFrames": 2**31 - 1}, Problem.UNUSABLE),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, Problem.MALFORMED),
        ({"PhotometricInterpretation": "YBR_FULL"}, Problem.MALFORMED),
        ({"PhotometricInterpretation": "YBR_PARTIAL_420"}, Problem.UNUSABLE),
        ({"NumberOfFrames": 0}, Problem.UNUSABLE),
        ({"SOPInstanceUID": "../../escape"}, Problem.MALFORMED),
        ({"PhotometricInterpretation": None}, Problem.MALFORMED),
        ({"BitsStored": 13, "BitsAllocated": 12}, Problem.UNUSABLE),
        ({"BitsStored": 0}, Problem.UNUSABLE),
        ({"HighBit": 15}, Problem.UNUSABLE),
        ({"SamplesPerPixel": 3}, Problem.MALFORMED),
        ({"Rows": 25}, Problem.MALFORMED),
        ({"Rows": 0}, Problem.MALFORMED),
        ({"Rows": None}, Problem.MALFORMED),
        ({"Rows": 65535, "Columns": 65535}, Problem.TOO_LARGE),
        ({"Rows": 1, "Columns": 1, "PixelData": b"\0\0"}, Problem.UNUSABLE),
        ({"PixelData": bytes(2 * 24 * 32)}, Problem.UNUSABLE),
        ({"PixelData": None}, Problem.UNUSABLE),
        ({"ModalityLUTSequence": lut([4, 0, 16], [1, 2, 3])}, Problem.UNUSABLE),
        ({"ModalityLUTSequence": lut([4, 0, 16], [7, 7, 7, 7])}, Problem.UNUSABLE),
        ({"ModalityLUTSequence": lut([4, 0, 99], [1, 2, 3, 4])}, Problem.UNUSABLE),
        ({"ModalityLUTSequence": Sequence([Dataset()])}, Problem.MALFORMED),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_header_that_gives_no_picture_is_refused(
    elements: dict[str, Any], problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pydicom.config.settings, "_writing_validation_mode", 0)
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", 0)
    refused(edited(**elements), problem)


def test_nothing_of_the_patient_is_in_a_refusal_or_a_note(caplog: Any, recwarn: Any) -> None:
    secret = "SECRET^NAME"
    for elements in ({"RescaleSlope": 0}, {"VOILUTFunction": secret}, {"Rows": 9}):
        file = edited(PatientName=secret, PatientID=secret, **elements)
        caplog.clear()
        recwarn.clear()
        with pytest.raises(ImageProblem) as caught:
            decode(file)
        assert "SECRET" not in caught.value.detail + caplog.text
        assert caught.value.__cause__ is None
    assert not recwarn.list


DATA = os.environ.get("LAZARET_DATA")


@pytest.mark.skipif(not DATA, reason="set LAZARET_DATA to the folder of real images")
def test_real_radiographs_decode() -> None:
    paths = sorted(Path(DATA or ".").glob("cxr_kermany/images/*"))[::50]
    assert paths
    for path in paths:
        assert isinstance(decode(path.read_bytes()), Image)
