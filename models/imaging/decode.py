"""The one door for files: sniff, bound, decode, digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import numpy.typing as npt

from models.imaging.image import Decoding, Image, ImageProblem, Limits, Problem
from models.imaging.rendering import RenderingPolicy

PNG: Final = "image/png"
JPEG: Final = "image/jpeg"
DICOM: Final = "application/dicom"

_DEFAULT_LIMITS: Final = Limits()
_DEFAULT_POLICY: Final = RenderingPolicy()
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_ALIASES: Final = {"image/jpg": JPEG, "image/pjpeg": JPEG, "image/x-png": PNG, "image/dicom": DICOM}
_EXECUTABLE: Final = (
    b"MZ", b"\x7fELF", b"#!", b"PK\x03\x04", b"%PDF",
    b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe", _PNG_SIGNATURE, b"\xff\xd8\xff", b"GIF8",
)  # fmt: skip


def decode(
    data: bytes,
    declared: str | None = None,
    limits: Limits = _DEFAULT_LIMITS,
    policy: RenderingPolicy = _DEFAULT_POLICY,
    frame: int | None = None,
) -> Image:
    """Decode a PNG, JPEG or DICOM file that nobody vouches for.

    Args:
        data: the whole file.
        declared: the sender's Content-Type. None and types that name no image claim nothing;
            an image type that the bytes are not is refused. Only ``application/dicom`` admits
            DICOM without its preamble, which has no magic bytes.
        limits: bounds, checked on headers before any pixel is decoded.
        policy: how the model wants files shown.
        frame: which frame of a multi-frame DICOM object, from 0. None: the only one; an object
            that has several is refused. ``decode_frames`` gives one after the other.

    Raises:
        ImageProblem: and nothing else, whatever the bytes.
    """
    media_type = _admit(data, declared, limits)
    with _nothing_but_problems():
        if media_type != DICOM:
            return _raster(media_type, data, limits, policy)
        from models.imaging import dicom

        instance = dicom.Instance.open(data, limits, policy)
        if frame is None and instance.layout.frames > 1:
            raise ImageProblem(
                Problem.UNUSABLE,
                "The DICOM object has several frames. Send one frame at a time.",
            )
        return _image(media_type, *instance.frame(frame or 0))


def decode_frames(
    data: bytes,
    declared: str | None = None,
    limits: Limits = _DEFAULT_LIMITS,
    policy: RenderingPolicy = _DEFAULT_POLICY,
) -> Iterator[Image]:
    """Every frame of a file, one in memory at a time; the header is read once.

    Arguments and ``ImageProblem`` as for ``decode``. A frame that cannot be decoded ends the
    iteration with its problem; ``decode`` with a number goes on behind it.
    """
    media_type = _admit(data, declared, limits)
    if media_type != DICOM:
        yield decode(data, declared, limits, policy)
        return
    with _nothing_but_problems():
        from models.imaging import dicom

        instance = dicom.Instance.open(data, limits, policy)
    for frame in range(instance.layout.frames):
        with _nothing_but_problems():
            image = _image(media_type, *instance.frame(frame))
        yield image


def _admit(data: bytes, declared: str | None, limits: Limits) -> str:
    """What the bytes are, once their number and the sender's claim are in order."""
    if not data:
        raise ImageProblem(Problem.MALFORMED, "The file is empty. Send a PNG, JPEG or DICOM image.")
    if len(data) > limits.file_bytes:
        raise ImageProblem(
            Problem.TOO_LARGE,
            f"The file has {len(data)} bytes; the bound is {limits.file_bytes}. "
            "Send a smaller image.",
        )
    return _media_type(data, _claim(declared))


@contextmanager
def _nothing_but_problems() -> Iterator[None]:
    try:
        yield
    except ImageProblem:
        raise
    except MemoryError:
        raise ImageProblem(
            Problem.TOO_LARGE, "The image does not fit in memory. Send a smaller one."
        ) from None
    except Exception:  # a hostile file may raise anything
        # Every parser can fail in its own way on hostile bytes, and its words may quote the
        # file: neither the exception nor its text leaves this module.
        raise ImageProblem(
            Problem.MALFORMED,
            "The image is damaged or truncated and cannot be read. Send it again.",
        ) from None


def _image(
    media_type: str,
    pixels: npt.NDArray[np.uint8],
    notes: tuple[str, ...],
    decoding: Decoding,
) -> Image:
    pixels = np.ascontiguousarray(pixels)
    return Image(pixels, media_type, digest(pixels), notes, decoding)


def digest(pixels: npt.NDArray[np.uint8]) -> str:
    """``sha256:`` of the shape as text (``HxWxC`` and a newline) and the bytes in C order."""
    height, width, channels = pixels.shape
    state = hashlib.sha256(f"{height}x{width}x{channels}\n".encode())
    state.update(np.ascontiguousarray(pixels).data)
    return f"sha256:{state.hexdigest()}"


def _raster(media_type: str, data: bytes, limits: Limits, policy: RenderingPolicy) -> Image:
    from models.imaging import raster

    pixels, notes = (
        raster.decode_png(data, limits)
        if media_type == PNG
        else raster.decode_jpeg(data, limits, policy.jpeg)
    )
    decoding = Decoding(decoder=raster.decoder_name(), lossy=media_type == JPEG)
    return _image(media_type, pixels, notes, decoding)


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


def is_second_kind(preamble: bytes) -> bool:
    """Whether a DICOM preamble (PS3.10 section 7.1) begins as a program, an archive or another
    image does. The standard allows it; here it is a second face of one file."""
    return preamble.startswith(_EXECUTABLE)


def _sniff(data: bytes) -> str | None:
    if data[128:132] == b"DICM":
        if is_second_kind(data[:128]):
            raise ImageProblem(
                Problem.MALFORMED,
                "The file's DICOM preamble makes it a second kind of file as well (a program, an "
                "archive or another image). Clear the preamble.",
            )
        return DICOM
    if data.startswith(_PNG_SIGNATURE):
        return PNG
    return JPEG if data.startswith(b"\xff\xd8\xff") else None
