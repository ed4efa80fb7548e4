"""The one door for files: sniff, bound, decode, digest."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt

from models.imaging.image import Image, ImageProblem, Limits, Problem

PNG: Final = "image/png"
JPEG: Final = "image/jpeg"
DICOM: Final = "application/dicom"

_DEFAULT_LIMITS: Final = Limits()
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_ALIASES: Final = {"image/jpg": JPEG, "image/pjpeg": JPEG, "image/x-png": PNG, "image/dicom": DICOM}
_EXECUTABLE: Final = (
    b"MZ", b"\x7fELF", b"#!", b"PK\x03\x04", b"%PDF",
    b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe", _PNG_SIGNATURE, b"\xff\xd8\xff", b"GIF8",
)  # fmt: skip


def decode(data: bytes, declared: str | None = None, limits: Limits = _DEFAULT_LIMITS) -> Image:
    """Decode a PNG, JPEG or DICOM file that nobody vouches for.

    Args:
        data: the whole file.
        declared: the sender's Content-Type. None and types that name no image claim nothing;
            an image type that the bytes are not is refused. Only ``application/dicom`` admits
            DICOM without its preamble, which has no magic bytes.
        limits: bounds, checked on headers before any pixel is decoded.

    Raises:
        ImageProblem: and nothing else, whatever the bytes.
    """
    if not data:
        raise ImageProblem(Problem.MALFORMED, "The file is empty. Send a PNG, JPEG or DICOM image.")
    if len(data) > limits.file_bytes:
        raise ImageProblem(
            Problem.TOO_LARGE,
            f"The file has {len(data)} bytes; the bound is {limits.file_bytes}. "
            "Send a smaller image.",
        )
    media_type = _media_type(data, _claim(declared))
    try:
        pixels, notes = _decode_as(media_type, data, limits)
    except ImageProblem:
        raise
    except MemoryError:
        raise ImageProblem(
            Problem.TOO_LARGE, "The image does not fit in memory. Send a smaller one."
        ) from None
    except Exception:  # a hostile file may raise anything
        # Every parser below can fail in its own way on hostile bytes, and its words may quote
        # the file: neither the exception nor its text leaves this function.
        raise ImageProblem(
            Problem.MALFORMED,
            "The image is damaged or truncated and cannot be read. Send it again.",
        ) from None
    pixels = np.ascontiguousarray(pixels)
    return Image(pixels, media_type, digest(pixels), notes)


def digest(pixels: npt.NDArray[np.uint8]) -> str:
    """``sha256:`` of the shape as text (``HxWxC`` and a newline) and the bytes in C order."""
    height, width, channels = pixels.shape
    state = hashlib.sha256(f"{height}x{width}x{channels}\n".encode())
    state.update(np.ascontiguousarray(pixels).data)
    return f"sha256:{state.hexdigest()}"


def _decode_as(
    media_type: str, data: bytes, limits: Limits
) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    if media_type == DICOM:
        from models.imaging import dicom

        return dicom.decode(data, limits)
    from models.imaging import raster

    return (
        raster.decode_png(data, limits) if media_type == PNG else raster.decode_jpeg(data, limits)
    )


def _claim(declared: str | None) -> str | None:
    """The image type that the sender names, or None when the header names none."""
    name = (declared or "").split(";", 1)[0].strip().lower()
    name = _ALIASES.get(name, name)
    return name if name.startswith("image/") or name == DICOM else None


def _media_type(data: bytes, claim: str | None) -> str:
    found = _sniff(data)
    if found is None and claim == DICOM:
        return DICOM
    if found is None:
        raise ImageProblem(
            Problem.UNSUPPORTED, "This is not a PNG, JPEG or DICOM file. Send one of those."
        )
    if claim is not None and claim != found:
        raise ImageProblem(
            Problem.UNSUPPORTED,
            f"The file is mislabelled: its bytes are {found}. Send it with that Content-Type.",
        )
    return found


def _sniff(data: bytes) -> str | None:
    if data[128:132] == b"DICM":
        if data.startswith(_EXECUTABLE):
            raise ImageProblem(
                Problem.MALFORMED,
                "The file's DICOM preamble makes it a second kind of file as well (a program, an "
                "archive or another image). Clear the preamble.",
            )
        return DICOM
    if data.startswith(_PNG_SIGNATURE):
        return PNG
    return JPEG if data.startswith(b"\xff\xd8\xff") else None
