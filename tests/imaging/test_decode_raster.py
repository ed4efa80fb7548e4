"""PNG and JPEG become the pixels that any viewer shows, or a typed refusal."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageOps

from models.imaging import Image, ImageProblem, Limits, Problem, encode
from models.imaging.decode import decode

RAMP = np.arange(32 * 40, dtype=np.uint32).reshape(32, 40)
GRAY = (RAMP % 251).astype(np.uint8)
RGB = np.stack((GRAY, 255 - GRAY, GRAY // 2), axis=2)


def saved(image: Pillow.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(
    width: int, height: int, depth: int, color: int, rows: bytes, *before: bytes, after: bytes = b""
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data = chunk(b"IDAT", zlib.compress(rows, 9))
    return signature + b"".join(before) + data + after + chunk(b"IEND", b"")


def refused(data: bytes, problem: Problem, declared: str | None = None) -> str:
    with pytest.raises(ImageProblem) as caught:
        decode(data, declared)
    assert caught.value.problem is problem
    assert caught.value.detail.endswith((".", "!"))
    return caught.value.detail


@pytest.mark.parametrize("pixels", [GRAY[..., np.newaxis], RGB], ids=["gray", "rgb"])
def test_a_png_comes_back_bit_for_bit_with_a_digest_of_its_pixels(pixels: Any) -> None:
    image = decode(encode.png(pixels), "image/png")
    assert np.array_equal(image.pixels, pixels)
    assert image.pixels.flags.c_contiguous
    assert image.media_type == "image/png"
    assert image.notes == ()
    height, width, channels = pixels.shape
    expected = hashlib.sha256(f"{height}x{width}x{channels}\n".encode() + pixels.tobytes())
    assert image.digest == f"sha256:{expected.hexdigest()}"


def test_sixteen_bit_gray_is_rounded_not_cut() -> None:
    values = (RAMP * 51).astype(np.uint16)
    image = decode(saved(Pillow.fromarray(values)))
    assert np.array_equal(image.pixels[..., 0], np.round(values / 257).astype(np.uint8))
    assert image.notes == ("16 to 8 bits",)


def test_sixteen_bit_colour_keeps_its_high_byte() -> None:
    row = b"\0" + b"\x80\xff\x10\x01\xff\xfe" * 20
    image = decode(raw_png(20, 20, 16, 2, row * 20))
    assert image.pixels[3, 3].tolist() == [0x80, 0x10, 0xFF]
    assert image.notes == ("16 to 8 bits (high byte)",)


def test_one_bit_and_interlaced_images_are_what_they_show() -> None:
    checker = (np.indices((20, 24)).sum(axis=0) % 2).astype(bool)
    image = decode(saved(Pillow.fromarray(checker)))
    assert np.array_equal(image.pixels[..., 0], np.where(checker, 255, 0))
    adam7 = (
        (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
        (1, 0, 2, 1),
    )  # fmt: skip
    rows = b"".join(
        b"\0" + line.tobytes() for y, x, down, across in adam7 for line in GRAY[y::down, x::across]
    )
    interlaced = bytearray(raw_png(40, 32, 8, 0, rows))
    interlaced[28] = 1
    interlaced[29:33] = struct.pack(">I", zlib.crc32(bytes(interlaced[12:29])))
    assert np.array_equal(decode(bytes(interlaced)).pixels[..., 0], GRAY)


def test_a_gray_palette_stays_gray_and_a_coloured_one_becomes_rgb() -> None:
    gray = Pillow.fromarray(GRAY).convert("P")
    image = decode(saved(gray))
    assert np.array_equal(image.pixels[..., 0], GRAY)
    assert image.notes == ("palette to gray",)
    coloured = Pillow.fromarray(RGB).quantize(16)
    image = decode(saved(coloured))
    assert np.array_equal(image.pixels, np.asarray(coloured.convert("RGB")))


def test_alpha_counts_only_when_something_is_transparent() -> None:
    opaque = np.dstack((RGB, np.full(GRAY.shape, 255, np.uint8)))
    image = decode(saved(Pillow.fromarray(opaque)))
    assert np.array_equal(image.pixels, RGB)
    assert image.notes == ("opaque alpha dropped",)
    opaque[5, 5, 3] = 254
    refused(saved(Pillow.fromarray(opaque)), Problem.UNUSABLE)
    palette = Pillow.fromarray(GRAY % 8).convert("P")
    refused(saved(palette, transparency=3), Problem.UNUSABLE)
    assert decode(saved(palette, transparency=200)).pixels.shape == (32, 40, 1)
    refused(saved(Pillow.fromarray(GRAY), transparency=7), Problem.UNUSABLE)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_upright_as_in_a_viewer(form: str, orientation: int) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    data = saved(Pillow.fromarray(GRAY), form, exif=exif)
    image = decode(data)
    shown = ImageOps.exif_transpose(Pillow.open(io.BytesIO(data)))
    assert np.array_equal(image.pixels[..., 0], np.asarray(shown))
    assert image.notes == (("turned upright by EXIF",) if orientation > 1 else ())


def test_jpeg_is_decoded_in_full_and_cmyk_is_refused() -> None:
    smooth = Pillow.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 3, (48, 1)))
    image = decode(saved(smooth, "JPEG", quality=95), "image/jpg")
    assert image.pixels.shape == (48, 64, 1)
    assert np.abs(image.pixels[..., 0].astype(int) - np.asarray(smooth)).max() <= 3
    assert decode(saved(Pillow.fromarray(RGB), "JPEG")).pixels.shape == (32, 40, 3)
    assert "CMYK" in refused(saved(smooth.convert("CMYK"), "JPEG"), Problem.UNUSABLE)


def test_an_animation_is_refused() -> None:
    frames = [Pillow.fromarray(GRAY), Pillow.fromarray(255 - GRAY)]
    animated = saved(frames[0], save_all=True, append_images=frames[1:])
    assert "animated" in refused(animated, Problem.UNUSABLE)


@pytest.mark.parametrize("form", ["GIF", "TIFF", "BMP", "WEBP", "PPM", "ICO", "PDF"])
def test_other_formats_never_reach_a_decoder(form: str) -> None:
    data = saved(Pillow.fromarray(GRAY), form)
    assert "PNG, JPEG or DICOM" in refused(data, Problem.UNSUPPORTED)
    refused(data, Problem.UNSUPPORTED, "image/png")


@pytest.mark.parametrize("data", [b"hello, world\n" * 50, b"PK\x03\x04" + bytes(500), b"\0"])
def test_what_is_no_image_is_unsupported(data: bytes) -> None:
    refused(data, Problem.UNSUPPORTED)


def test_the_label_must_match_the_bytes() -> None:
    data = encode.png(GRAY[..., np.newaxis])
    for declared in ("image/jpeg", "application/dicom", "image/gif", "IMAGE/JPEG; q=1"):
        assert "mislabelled" in refused(data, Problem.UNSUPPORTED, declared)
    for honest in (None, "", "image/png", "Image/PNG; a=b", "application/octet-stream"):
        assert isinstance(decode(data, honest), Image)


def test_empty_truncated_and_tiny_files() -> None:
    refused(b"", Problem.MALFORMED)
    for data in (encode.png(RGB), saved(Pillow.fromarray(RGB), "JPEG")):
        for length in (len(data) // 4, len(data) // 2, len(data) * 3 // 4):
            refused(data[:length], Problem.MALFORMED)
    refused(encode.png(np.zeros((1, 1, 1), np.uint8)), Problem.UNUSABLE)
    refused(encode.png(np.zeros((15, 64, 1), np.uint8)), Problem.UNUSABLE)


def test_bounds_hold_on_bytes_side_and_pixels() -> None:
    data = encode.png(GRAY[..., np.newaxis])
    for limits in (Limits(file_bytes=len(data) - 1), Limits(side=39), Limits(pixels=1279)):
        with pytest.raises(ImageProblem) as caught:
            decode(data, None, limits)
        assert caught.value.problem is Problem.TOO_LARGE
    edge = Limits(file_bytes=len(data), side=40, pixels=1280, smallest_side=32)
    assert decode(data, None, edge).pixels.shape == (32, 40, 1)


def test_text_and_profiles_in_a_png_are_never_inflated_or_applied() -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    gamma = chunk(b"gAMA", b"\0\0\1\0")
    rows = b"".join(b"\0" + line.tobytes() for line in GRAY)
    data = raw_png(
        40, 32, 8, 0, rows,
        chunk(b"iCCP", b"x\0\0" + bomb), chunk(b"zTXt", b"x\0\0" + bomb), gamma,
        after=chunk(b"iTXt", b"x\0\1\0\0\0" + bomb),
    )  # fmt: skip
    assert np.array_equal(decode(data).pixels[..., 0], GRAY)


def test_a_png_start_loads_neither_pydicom_nor_torch() -> None:
    script = (
        "import sys; from models.imaging.decode import decode; decode(sys.stdin.buffer.read()); "
        "assert not {'pydicom', 'torch', 'scipy'} & set(sys.modules)"
    )
    data = encode.png(GRAY[..., np.newaxis])
    subprocess.run([sys.executable, "-c", script], input=data, check=True, timeout=60)
