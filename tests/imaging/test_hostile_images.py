"""No file crashes the decoder, makes it wait, or makes it take memory that its size does not."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import zlib
from typing import Any

import numpy as np
import pytest
from dicom_files import element, part10
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from models.imaging import Image, ImageProblem, encode
from models.imaging.decode import decode

GRAY = (np.arange(24 * 24) % 256).astype(np.uint8).reshape(24, 24, 1)
RGB = np.concatenate((GRAY, 255 - GRAY, GRAY // 2), axis=2)


def saved(pixels: Any, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, data: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def repaired(data: bytes) -> bytes:
    """The PNG with its checksums put right, so that a mutation reaches the decoder."""
    out, at = [data[:8]], 8
    while at + 12 <= len(data):
        length = struct.unpack_from(">I", data, at)[0]
        body = data[at + 8 : at + 8 + length]
        if len(body) < length:
            break
        out.append(chunk(data[at + 4 : at + 8], body))
        at += 12 + length
    return b"".join(out) + data[at:]


SEEDS = (
    encode.png(RGB),
    saved(GRAY[..., 0], "PNG", exif=Pillow.Exif()),
    saved(RGB, "JPEG", progressive=True),
    encode.dicom(GRAY),
    encode.dicom(GRAY.astype(np.uint16) * 16, bits_stored=12, rle=True),
)


@settings(max_examples=400, deadline=5000, suppress_health_check=list(HealthCheck))
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=6)), max_size=6),
    cut=st.one_of(st.none(), st.integers(0, 2**11)),
    declared=st.sampled_from((None, "application/dicom", "image/png")),
)
def test_a_mutated_file_gives_an_image_or_a_typed_refusal(
    seed: bytes, edits: list[tuple[int, bytes]], cut: int | None, declared: str | None
) -> None:
    data = bytearray(seed)
    for at, patch in edits:
        # favour the headers: half of all edits fall in the first 1,200 bytes
        at = at % len(data) if at % 2 else at % min(len(data), 1200)
        data[at : at + len(patch)] = patch
    mutated = bytes(data[:cut])
    for file in (mutated, repaired(mutated)) if mutated.startswith(b"\x89PNG") else (mutated,):
        try:
            image = decode(file, declared)
        except ImageProblem:
            continue
        assert image.pixels.dtype == np.uint8
        assert image.pixels.shape[2] in (1, 3)


@settings(max_examples=100, deadline=5000)
@given(st.binary(max_size=300), st.sampled_from((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"dicom")))
def test_noise_behind_a_magic_number_is_refused(noise: bytes, magic: bytes) -> None:
    with pytest.raises(ImageProblem):
        decode(bytes(128) + b"DICM" + noise if magic == b"dicom" else magic + noise)


ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)


@pytest.mark.parametrize(
    "body",
    [
        (element(0x00081140, b"SQ", b"", 0xFFFFFFFF) + ITEM) * 5000,
        (element(0x00081140, b"UN", b"", 0xFFFFFFFF) + ITEM) * 200,
        element(0x7FE00010, b"OB", b"1234", 0xFFFFFFF0),
        element(0x7FE00010, b"OB", b"", 0xFFFFFFFF) + ITEM,
        element(0x00280010, b"US", b"\x40\0") * 2,
        b"".join(element(0x00090000 + i % 65536, b"LO", b"") for i in range(300_000)),
        element(0x00280030, b"DS", b"1\\" * 30_000 + b"1 "),
        element(0x00280010, b"US", b"", 0xFFFF),
        element(0x00280010, b"??", b"\0\0"),
    ],
    ids=["nested", "nested UN", "4 GB", "open item", "twice", "300k", "list", "short", "VR"],
)
def test_a_hostile_dicom_header_is_refused_at_once(body: bytes) -> None:
    start = time.perf_counter()
    with pytest.raises(ImageProblem):
        decode(part10(body))
    assert time.perf_counter() - start < 2


def test_a_preamble_that_makes_the_file_a_program_is_refused() -> None:
    data = encode.dicom(GRAY)
    for magic in (b"MZ\x90\0", b"\x7fELF", b"#!/bin/sh\n", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(ImageProblem, match="preamble"):
            decode(magic + data[len(magic) :])
    assert decode(b"II*\0" + data[4:]).digest == decode(data).digest  # TIFF is DICOM's own use


def rle_file(*packed: bytes) -> bytes:
    """A 24 x 24 file of 8 bits whose segments are these."""
    good = encode.dicom(GRAY, rle=True)
    at = good.index(struct.pack("<HH", 0x7FE0, 0x0010)) + 12
    offsets = np.cumsum([64, *map(len, packed)])[:-1].tolist()
    frame = struct.pack("<16I", len(packed), *offsets, *[0] * (15 - len(packed))) + b"".join(packed)
    items = (b"", frame)
    body = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    return good[:at] + body + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def test_rle_fills_the_image_and_never_more() -> None:
    ramp = b"".join(bytes((127,)) + bytes(range(128)) for _ in range(8))
    shown = decode(rle_file(ramp)).pixels.ravel()
    assert np.array_equal(shown, np.arange(576) % 128)
    for short in (b"\x81\0" * 4, ramp[: 129 * 4], b"\x80" * 5000, b""):
        with pytest.raises(ImageProblem, match="does not fill"):
            decode(rle_file(short))
    with pytest.raises(ImageProblem, match="does not fill"):
        decode(rle_file(ramp, ramp))


MEASURE = """
import resource, sys
from models.imaging import ImageProblem
from models.imaging.decode import decode
import models.imaging.raster, models.imaging.dicom
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(data)
    name = "decoded"
except ImageProblem as problem:
    name = problem.problem.name
print(name, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def zeros(count: int) -> bytes:
    """A zlib stream of many zeros, compressed a block at a time."""
    packer = zlib.compressobj(9)
    block = bytes(2**20)
    return b"".join(packer.compress(block) for _ in range(count // 2**20)) + packer.flush()


BOMBS = {
    "a header of 30,000 x 30,000": (png(30_000, 30_000, chunk(b"IDAT", zeros(2**20))), "TOO_LARGE"),
    "IDAT past its image": (png(64, 64, chunk(b"IDAT", zeros(2**26))), "decoded"),
    "text": (png(64, 64, chunk(b"zTXt", b"x\0\0" + zeros(2**26)) * 4), "MALFORMED"),
    "chunks": (png(64, 64, chunk(b"tEXt", b"") * 100_000), "MALFORMED"),
    "scans": (
        saved(GRAY[..., 0], "JPEG", progressive=True)[:-2]
        + b"\xff\xda\0\x08\x01\x01\0\x01\x3f\0" * 999,
        "UNUSABLE",
    ),
    "deflated DICOM": (part10(zeros(2**26)[2:], b"1.2.840.10008.1.2.1.99"), "TOO_LARGE"),
    "zlib for deflate": (part10(zeros(2**26), b"1.2.840.10008.1.2.1.99"), "MALFORMED"),
}


@pytest.mark.skipif(sys.platform == "win32", reason="measures memory by getrusage")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_stays_inside_bounded_memory(name: str) -> None:
    data, expected = BOMBS[name]
    run = subprocess.run(
        [sys.executable, "-c", MEASURE], input=data, capture_output=True, check=True, timeout=60
    )
    problem, grown = run.stdout.split()
    assert problem.decode() == expected
    assert int(grown) < 32 + len(data) * 3 // 2**20  # MiB


def test_the_fuzz_seeds_are_good_files() -> None:
    assert all(isinstance(decode(seed), Image) for seed in SEEDS)
