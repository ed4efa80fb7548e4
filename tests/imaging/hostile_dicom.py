"""Makes hostile DICOM files: decompression bombs, lying lengths and headers, deep nesting.

    python tests/imaging/hostile_dicom.py FOLDER

Each is small to send and dear to a reader that trusts it. Most have cost a published DICOM
library or server a crash, gigabytes of memory, or minutes.
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from dicom_files import GRAY, TWELVE, changed, compressed, edited, element, part10

from models.imaging import encode
from models.imaging.transfer_syntax import (
    HTJ2K,
    JPEG_2000,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_LS_LOSSLESS,
    RLE_LOSSLESS,
)

DEFLATED = b"1.2.840.10008.1.2.1.99"
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def deflate_bomb() -> bytes:
    """512 MiB of zeros in about 522 KB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return part10(block * 512 + packer.flush(), DEFLATED)


def nested(depth: int, defined: bool) -> bytes:
    """Sequences inside each other, before a good image's elements."""
    opened = b""
    for _ in range(depth):
        if defined:
            inner = struct.pack("<HHI", 0xFFFE, 0xE000, len(opened)) + opened
            opened = element(0x00081140, b"SQ", inner)
        else:
            opened = element(0x00081140, b"SQ", ITEM + opened + END, 0xFFFFFFFF)
    return inserted(opened)


def inserted(elements: bytes) -> bytes:
    """A good image with elements put in front of its data set."""
    good = encode.dicom(GRAY)
    at = 144 + int.from_bytes(good[140:144], "little")
    return good[:at] + elements + good[at:]


def rle_segment(pixels: int) -> bytes:
    return b"\x81\0" * (pixels // 128)


def rle_frame(pixels: int) -> bytes:
    return struct.pack("<16I", 1, 64, *[0] * 14) + rle_segment(pixels)


def rle_image(side: int, frames: int) -> bytes:
    data = [rle_frame(side * side)] * frames
    return compressed(
        encode.dicom(GRAY), RLE_LOSSLESS, *data, Rows=side, Columns=side, NumberOfFrames=frames
    )


@cache
def constant_jpeg_2000(side: int) -> bytes:
    import imagecodecs

    pixels = np.full((side, side), 7, np.uint8)
    return bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True))


def claiming(stream: bytes, side: int) -> bytes:
    """A JPEG 2000 codestream whose SIZ says that image and tile are ``side`` wide and high."""
    size = struct.pack(">6I", side, side, 0, 0, side, side)
    return stream[:8] + size + stream[32:]


def jpeg_2000(stream: bytes, rows: int, columns: int, syntax: str = JPEG_2000_LOSSLESS) -> bytes:
    return compressed(encode.dicom(GRAY), syntax, stream, Rows=rows, Columns=columns)


def garbled(stream: bytes, seed: int) -> bytes:
    """A codestream whose entropy-coded part is noise."""
    noise = np.random.default_rng(seed).integers(0, 256, 20_000).astype(np.uint8).tobytes()
    return stream[: len(stream) // 2] + noise.replace(b"\xff", b"\xfe") + b"\xff\xd9"


def small(codec: str) -> bytes:
    import imagecodecs

    pixels = np.random.default_rng(0).integers(0, 256, (24, 32)).astype(np.uint8)
    options: dict[str, Any] = {"codecformat": "j2k"} if codec == "jpeg2k" else {}
    return bytes(getattr(imagecodecs, f"{codec}_encode")(pixels, **options))


def with_raw(tag: int, vr: bytes, value: bytes) -> bytes:
    """A 12-bit image with one element in place of its own, whatever a writer would say to it."""
    dataset = pydicom.dcmread(io.BytesIO(edited()))
    if tag in dataset:
        del dataset[tag]
    stream = io.BytesIO()
    dataset.save_as(stream)
    data = stream.getvalue()
    at = data.index(struct.pack("<HH", 0x7FE0, 0x0010))
    return data[:at] + element(tag, vr, value) + data[at:]


FILES: dict[str, Callable[[], bytes]] = {
    "deflate bomb of 512 MiB": deflate_bomb,
    "nested 200, defined lengths": lambda: nested(200, True),
    "nested 1000": lambda: nested(1000, False),
    "nested 5000": lambda: nested(5000, False),
    "nested 200 as UN": lambda: inserted(
        (element(0x00081140, b"UN", b"", 0xFFFFFFFF) + ITEM) * 200
    ),
    "a length of 4 GiB": lambda: part10(element(0x7FE00010, b"OB", b"1234", 0xFFFFFFF0)),
    "65535 x 65535": lambda: edited(GRAY, Rows=65535, Columns=65535),
    "65535 x 65535 x 2**31-1 frames": lambda: edited(
        GRAY, Rows=65535, Columns=65535, NumberOfFrames=2**31 - 1
    ),
    "RLE of 16384 x 16384": lambda: rle_image(16384, 1),
    "RLE of 200 frames of 2048 x 2048": lambda: rle_image(2048, 200),
    "JPEG 2000 of 12000 x 12000": lambda: jpeg_2000(
        claiming(constant_jpeg_2000(64), 12_000), 12_000, 12_000
    ),
    "JPEG 2000 of 12000 x 12000 as 64 x 64": lambda: jpeg_2000(
        claiming(constant_jpeg_2000(64), 12_000), 64, 64
    ),
    "JPEG 2000 of 6000 x 6000, one value": lambda: jpeg_2000(
        constant_jpeg_2000(6000), 6000, 6000
    ),
    "JPEG 2000 claiming 6000 x 6000": lambda: jpeg_2000(
        claiming(constant_jpeg_2000(64), 6000) + bytes(40_000) + b"\xff\xd9", 6000, 6000
    ),
    "JPEG 2000 of noise": lambda: jpeg_2000(garbled(small("jpeg2k"), 1), 24, 32, JPEG_2000),
    "HTJ2K of noise": lambda: jpeg_2000(garbled(small("htj2k"), 2)[:-2], 24, 32, HTJ2K),
    "JPEG-LS of noise": lambda: jpeg_2000(garbled(small("jpegls"), 3)[:60] + b"\xff\xd9", 24, 32,
                                          JPEG_LS_LOSSLESS),
    "JPEG without a scan": lambda: jpeg_2000(
        b"\xff\xd8\xff\xc0\0\x0b\x08\0\x18\0\x20\x01\x01\x11\0\xff\xda\0\x08\x01\x01\0\0\x3f\0"
        b"\xff\xd9", 24, 32, JPEG_BASELINE,
    ),
    "300,000 private elements": lambda: inserted(
        b"".join(element(0x00090000 + i % 65536, b"LO", b"") for i in range(300_000))
    ),
    "300,000 elements in a sequence": lambda: inserted(
        element(
            0x00081140, b"SQ",
            ITEM + b"".join(element(0x00090000 + i % 65536, b"LO", b"") for i in range(300_000))
            + END, 0xFFFFFFFF,
        )
    ),
    "10,000,000 values": lambda: inserted(element(0x00080119, b"UC", b"1\\" * 10_000_000)),
    "MZ preamble": lambda: b"MZ\x90\0" + encode.dicom(GRAY)[4:],
    "ELF preamble": lambda: b"\x7fELF" + encode.dicom(GRAY)[4:],
    "Mach-O preamble": lambda: b"\xcf\xfa\xed\xfe" + encode.dicom(GRAY)[4:],
    "script preamble": lambda: b"#!/bin/sh\n" + encode.dicom(GRAY)[10:],
    "ZIP preamble": lambda: b"PK\x03\x04" + encode.dicom(GRAY)[4:],
    "UID that is a path": lambda: changed_uid("../../escape_test"),
    "slope 1E400": lambda: with_raw(0x00281053, b"DS", b"1E400 "),
    "slope 0": lambda: with_raw(0x00281053, b"DS", b"0 "),
    "slope nan": lambda: with_raw(0x00281053, b"DS", b"nan "),
    "slope 1E-300": lambda: with_raw(0x00281053, b"DS", b"1E-300"),
    "intercept inf": lambda: with_raw(0x00281052, b"DS", b"-inf"),
    "window width 0": lambda: with_raw(0x00281051, b"DS", b"0 "),
    "window beside the picture": lambda: edited(WindowCenter=-30_000, WindowWidth=10),
    "all padding": lambda: all_padding(),
    "pixel data twice": lambda: encode.dicom(GRAY)
    + element(0x7FE00010, b"OB", bytes(GRAY.size)),
    "rows again behind the pixels": lambda: encode.dicom(GRAY)
    + element(0x00280010, b"US", b"\x08\0"),
    "rows again behind the fragments": lambda: encode.dicom(GRAY, rle=True)
    + element(0x00280010, b"US", b"\x08\0"),
    "meta information in the data set": lambda: inserted(
        element(0x00020010, b"UI", b"1.2.840.10008.1.2.5\0")
    ),
    "rows twice": lambda: inserted(element(0x00280010, b"US", b"\x08\0")),
    "fragments without frames": lambda: compressed(
        encode.dicom(GRAY), RLE_LOSSLESS, *[b"\0\0"] * 300, NumberOfFrames=2
    ),
    "a fragment of 4 GiB": lambda: compressed(encode.dicom(GRAY), JPEG_2000, b"12")[:-18]
    + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFF0),
}  # fmt: skip
"""By name. None gives a picture."""


def changed_uid(uid: str) -> bytes:
    before = pydicom.config.settings.writing_validation_mode
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    try:
        return changed(encode.dicom(GRAY), SOPInstanceUID=uid)
    finally:
        pydicom.config.settings.writing_validation_mode = before


def all_padding() -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(edited(TWELVE)))
    dataset.add_new(0x00280120, "US", 0)
    dataset.add_new(0x00280121, "US", 4095)
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def main() -> None:
    """Write every file into the folder that is named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, make) in enumerate(FILES.items(), start=1):
        data = make()
        (folder / f"{number:02}.dcm").write_bytes(data)
        print(f"{number:02}.dcm  {len(data):>10}  {name}")


if __name__ == "__main__":
    main()
