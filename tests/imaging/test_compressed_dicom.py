"""Each compressed transfer syntax gives the stored values, by its one decoder."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest
from dicom_files import GRAY, TWELVE, compressed, edited, refused, rounded, shown
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from models.imaging import ImageProblem, Problem, codestream, encode
from models.imaging.codecs import decoder_name
from models.imaging.decode import decode
from models.imaging.transfer_syntax import (
    HTJ2K,
    HTJ2K_LOSSLESS,
    JPEG_2000,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_LOSSLESS_SV1,
    JPEG_LS_LOSSLESS,
    JPEG_LS_NEAR,
    TRANSFER_SYNTAXES,
    Codec,
    read_here,
)

imagecodecs = pytest.importorskip("imagecodecs", reason="pip install 'lazaret[dicom]'")
COLOUR = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)


def jpeg2k(pixels: Any, **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", **options))


def lossless(pixels: Any) -> bytes:
    bits = {"bitspersample": 12} if pixels.dtype == np.uint16 else {}
    return bytes(imagecodecs.jpeg8_encode(pixels, lossless=True, **bits))


def htj2k(pixels: Any) -> bytes:
    return bytes(imagecodecs.htj2k_encode(pixels, reversible=True))


def jpegls(pixels: Any) -> bytes:
    return bytes(imagecodecs.jpegls_encode(pixels))


def baseline(pixels: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(pixels).save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("syntax", "compress"),
    [
        (JPEG_LOSSLESS, lossless),
        (JPEG_LOSSLESS_SV1, lossless),
        (JPEG_LS_LOSSLESS, jpegls),
        (JPEG_LS_NEAR, jpegls),
        (JPEG_2000_LOSSLESS, lambda pixels: jpeg2k(pixels, reversible=True)),
        (JPEG_2000, lambda pixels: jpeg2k(pixels, reversible=True)),
        (HTJ2K_LOSSLESS, htj2k),
        (HTJ2K, htj2k),
    ],
    ids=lambda value: TRANSFER_SYNTAXES[value].name if isinstance(value, str) else "",
)
@pytest.mark.parametrize("pixels", [GRAY, TWELVE], ids=["8 bits", "12 bits"])
def test_lossless_codestreams_give_back_what_was_stored(
    syntax: str, compress: Any, pixels: Any
) -> None:
    file = compressed(edited(pixels), syntax, compress(pixels[..., 0]))
    assert np.array_equal(shown(file), shown(edited(pixels)))
    found = decode(file).decoding
    assert found.transfer_syntax == syntax
    assert found.decoder == decoder_name(TRANSFER_SYNTAXES[syntax].codec)


@pytest.mark.parametrize(
    ("syntax", "compress", "photometric"),
    [
        (JPEG_LOSSLESS_SV1, lossless, "RGB"),
        (JPEG_LS_LOSSLESS, jpegls, "RGB"),
        (JPEG_2000_LOSSLESS, lambda pixels: jpeg2k(pixels, reversible=True, mct=True), "YBR_RCT"),
        (JPEG_2000_LOSSLESS, lambda pixels: jpeg2k(pixels, reversible=True, mct=False), "RGB"),
        (HTJ2K_LOSSLESS, htj2k, "YBR_RCT"),
    ],
)
def test_lossless_colour(syntax: str, compress: Any, photometric: str) -> None:
    file = compressed(
        encode.dicom(COLOUR), syntax, compress(COLOUR), PhotometricInterpretation=photometric
    )
    assert np.array_equal(decode(file).pixels, COLOUR)


def test_jpeg_baseline_is_pillows_and_needs_no_extra() -> None:
    file = compressed(encode.dicom(GRAY), JPEG_BASELINE, baseline(GRAY[..., 0]))
    expected = np.asarray(Pillow.open(io.BytesIO(baseline(GRAY[..., 0]))))
    assert np.array_equal(shown(file), expected)
    assert decode(file).decoding.lossy
    assert "lossy compression" in decode(file).notes
    assert decode(file).decoding.decoder.startswith("pillow ")


def unmarked(jpeg: bytes) -> bytes:
    """Without the APP0 segment, which says that the colours are YCbCr."""
    return jpeg[:2] + jpeg[4 + int.from_bytes(jpeg[4:6], "big") :]


@pytest.mark.parametrize("syntax", [JPEG_BASELINE, JPEG_EXTENDED])
def test_the_header_decides_colour_only_where_the_jpeg_does_not(syntax: str) -> None:
    smooth = np.asarray(Pillow.fromarray(COLOUR[:3, :4]).resize((32, 24)))
    marked = baseline(smooth, subsampling="4:4:4")
    bare = unmarked(marked)
    ybr = decode(
        compressed(encode.dicom(smooth), syntax, bare, PhotometricInterpretation="YBR_FULL")
    )
    assert int(np.abs(ybr.pixels.astype(int) - smooth).max()) < 16
    rgb = decode(compressed(encode.dicom(smooth), syntax, bare, PhotometricInterpretation="RGB"))
    assert np.array_equal(rgb.pixels, np.asarray(Pillow.fromarray(smooth).convert("YCbCr"))) or (
        int(np.abs(rgb.pixels.astype(int) - ybr.pixels).max()) > 32
    )
    # a JPEG that says YCbCr is YCbCr, whatever the header calls it
    said = decode(compressed(encode.dicom(smooth), syntax, marked, PhotometricInterpretation="RGB"))
    assert np.array_equal(said.pixels, ybr.pixels)


def test_overshoot_of_lossy_coding_is_white_not_black() -> None:
    pixels = np.full((24, 32), 1000, np.uint16)
    pixels[:, ::2] = 1030  # a codestream of 12 bits under a header of 10
    pixels[0, 0] = 0
    stream = bytes(imagecodecs.jpeg8_encode(pixels, level=100, bitspersample=12))
    file = compressed(
        edited(TWELVE, 12, WindowCenter=512, WindowWidth=1024), JPEG_EXTENDED, stream,
        BitsStored=10, HighBit=9,
    )  # fmt: skip
    assert shown(file)[5, 4] == 255
    assert shown(file)[5, 5] == 249
    assert "overshoot of lossy compression clipped" in decode(file).notes


def test_signed_jpeg_2000_keeps_its_sign_by_the_header() -> None:
    values = (TWELVE[..., 0].astype(np.int16) - 2048).astype(np.int16)
    stream = jpeg2k(values, reversible=True)
    file = compressed(
        edited(WindowCenter=0, WindowWidth=4096), JPEG_2000_LOSSLESS, stream, PixelRepresentation=1,
        BitsStored=16, HighBit=15,
    )  # fmt: skip
    assert np.array_equal(shown(file), rounded(np.clip((values + 0.5) / 4095 + 0.5, 0, 1) * 255))
    assert "window" in decode(file).notes
    unsigned = compressed(
        edited(), JPEG_2000_LOSSLESS, jpeg2k(TWELVE[..., 0], reversible=True),
        PixelRepresentation=1, BitsStored=12, HighBit=11,
    )  # fmt: skip
    assert "the codestream's sign differs from the header's" in decode(unsigned).notes


BIG = np.arange(64 * 80, dtype=np.uint16).reshape(64, 80) % 4096


@pytest.mark.parametrize(
    ("syntax", "stream"),
    [
        (JPEG_2000_LOSSLESS, lambda: jpeg2k(BIG, reversible=True)),
        (JPEG_LS_LOSSLESS, lambda: jpegls(BIG)),
        (JPEG_LOSSLESS, lambda: lossless(BIG)),
        (JPEG_BASELINE, lambda: baseline((BIG % 256).astype(np.uint8))),
    ],
)
def test_a_codestream_that_is_not_what_the_header_says_is_never_decoded(
    syntax: str, stream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.imaging import codec_pool

    monkeypatch.setattr(codec_pool, "shared", lambda: pytest.fail("decoded"))
    file = compressed(encode.dicom(GRAY), syntax, stream())
    assert "80 x 64" in refused(file, Problem.MALFORMED)


@pytest.mark.parametrize(
    ("syntax", "stream"),
    [
        (JPEG_BASELINE, lambda: baseline(GRAY[..., 0], progressive=True)),
        (JPEG_LOSSLESS, lambda: baseline(GRAY[..., 0])),
        (JPEG_2000, lambda: htj2k(GRAY[..., 0])),
        (HTJ2K, lambda: jpeg2k(GRAY[..., 0], reversible=True)),
        (JPEG_LS_LOSSLESS, lambda: lossless(GRAY[..., 0])),
        (JPEG_2000, lambda: bytes(imagecodecs.jpeg2k_encode(GRAY[..., 0], codecformat="jp2"))),
        (JPEG_2000, lambda: jpeg2k(GRAY[..., 0], reversible=True)[:-40]),
        (JPEG_BASELINE, lambda: b"\xff\xd8"),
        (JPEG_2000, lambda: b"\xff\x4f\xff\x51" + bytes(60) + b"\xff\xd9"),
    ],
    ids=["progressive", "lossy as lossless", "HT as J2K", "J2K as HT", "lossless as LS", "JP2",
         "truncated", "empty", "zeros"],
)  # fmt: skip
def test_a_codestream_of_another_kind_is_refused(syntax: str, stream: Any) -> None:
    refused(compressed(encode.dicom(GRAY), syntax, stream()), Problem.MALFORMED)


def test_a_codestream_that_grows_beyond_belief_is_refused() -> None:
    black = jpeg2k(np.zeros((3000, 3000), np.uint16), reversible=True)
    assert len(black) < 10_000
    file = compressed(edited(), JPEG_2000_LOSSLESS, black, Rows=3000, Columns=3000)
    assert "times its size" in refused(file, Problem.TOO_LARGE)


def test_one_decoder_a_transfer_syntax_whatever_is_installed() -> None:
    assert set(read_here()) == set(TRANSFER_SYNTAXES)
    pydicoms = {name for name in sys.modules if name.startswith(("gdcm", "pylibjpeg", "libjpeg"))}
    assert not pydicoms
    names = {decoder_name(codec) for codec in Codec}
    assert len(names) == len(Codec)


def test_a_codestreams_header_is_read_without_decoding() -> None:
    syntax = TRANSFER_SYNTAXES[JPEG_2000_LOSSLESS]
    found = codestream.read(jpeg2k(BIG, reversible=True), syntax)
    assert (found.rows, found.columns, found.samples, found.signed) == (64, 80, 1, False)


SEEDS = (
    (JPEG_2000, jpeg2k(BIG[:24, :32], reversible=True), TWELVE),
    (HTJ2K, htj2k(BIG[:24, :32]), TWELVE),
    (JPEG_LS_LOSSLESS, jpegls(BIG[:24, :32]), TWELVE),
    (JPEG_LOSSLESS, lossless(BIG[:24, :32]), TWELVE),
    (JPEG_BASELINE, baseline(COLOUR), COLOUR),
)


@settings(max_examples=80, deadline=10_000, suppress_health_check=list(HealthCheck))
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 2**12), st.binary(min_size=1, max_size=4)), max_size=4),
)
def test_a_mutated_codestream_gives_an_image_or_a_typed_refusal(
    seed: tuple[str, bytes, Any], edits: list[tuple[int, bytes]]
) -> None:
    syntax, stream, pixels = seed
    mutated = bytearray(stream)
    for at, patch in edits:
        mutated[at % len(stream) : at % len(stream) + len(patch)] = patch
    under = edited() if pixels is TWELVE else encode.dicom(pixels)
    try:
        image = decode(compressed(under, syntax, bytes(mutated)))
    except ImageProblem:
        return
    assert image.pixels.shape[:2] == (24, 32)
