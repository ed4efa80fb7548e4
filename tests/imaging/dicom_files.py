"""DICOM files for tests: a phantom's, with its header or its compression changed."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate

from models.imaging import ImageProblem, Problem, encode
from models.imaging.decode import decode

GRAY = (np.arange(24 * 32) % 256).astype(np.uint8).reshape(24, 32, 1)
TWELVE = (np.arange(24 * 32) * 5 % 4096).astype(np.uint16).reshape(24, 32, 1)


def edited(pixels: Any = TWELVE, bits: int | None = 12, /, **elements: Any) -> bytes:
    """A phantom's file with some elements changed, and those that are None removed."""
    data = encode.dicom(pixels, bits_stored=bits if pixels is TWELVE else None)
    return changed(data, **elements)


def changed(data: bytes, **elements: Any) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data))
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def shown(data: bytes) -> Any:
    return decode(data, "application/dicom").pixels[..., 0]


def refused(data: bytes, problem: Problem) -> str:
    with pytest.raises(ImageProblem) as caught:
        decode(data, "application/dicom")
    assert caught.value.problem is problem, caught.value.detail
    return caught.value.detail


def rounded(values: Any) -> Any:
    return np.floor(np.asarray(values, dtype=float) + 0.5).astype(np.uint8)


def compressed(data: bytes, syntax: str, *frames: bytes, **elements: Any) -> bytes:
    """A file with its pixels replaced by codestreams, one a frame."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(list(frames))
    dataset["PixelData"].is_undefined_length = True
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """One explicit element, whose length may lie."""
    size = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UC"):
        return head + struct.pack("<HI", 0, size) + value
    return head + struct.pack("<H", size) + value


def part10(body: bytes, uid: bytes = b"1.2.840.10008.1.2.1\0") -> bytes:
    """A file of nothing but the transfer syntax and ``body``."""
    return bytes(128) + b"DICM" + element(0x00020010, b"UI", uid) + body
