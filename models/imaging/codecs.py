"""One compressed frame to stored samples: the header is compared first, then a child decodes."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Final

import numpy as np
import numpy.typing as npt

from models.imaging import codestream
from models.imaging.image import ImageProblem, Problem
from models.imaging.transfer_syntax import Codec, TransferSyntax

NATIVE: Final = "lazaret 1"
"""Name and version of the decoders of this package; raise it when what they show changes."""
_SENTENCES: Final = {
    "damaged": "The compressed image is damaged and cannot be decoded. Export it again.",
    "memory": "The compressed image takes more memory than its size does. Send it uncompressed.",
    "timeout": "The compressed image takes too long to decode. Send it uncompressed.",
    "signal": "The compressed image makes its decoder fail. Export it again.",
}


def decoder_name(codec: Codec) -> str:
    """What decodes: library, version and codec."""
    if not codec.in_child:
        return f"{NATIVE} {codec.value}"
    library = "imagecodecs" if codec.extra else "pillow"
    return f"{library} {_version(library)} {codec.value}"


def require(syntax: TransferSyntax) -> None:
    """Raises ``ImageProblem`` when the decoder of ``syntax`` is not installed."""
    if syntax.codec.extra and not _installed():
        raise ImageProblem(
            Problem.UNSUPPORTED,
            f"The transfer syntax is {syntax.name}, whose decoder is not installed here. Send "
            "Explicit VR Little Endian, or have the operator run: pip install 'lazaret[dicom]'.",
        )


def decode(
    data: bytes,
    syntax: TransferSyntax,
    rows: int,
    columns: int,
    samples: int,
    stored: int,
    allocated: int,
    ybr: bool,
) -> tuple[npt.NDArray[np.uint8] | npt.NDArray[np.uint16], codestream.Codestream]:
    """``[rows, columns, samples]`` as the codestream holds them, and its header.

    Args:
        stored, allocated: bits, as the DICOM header says.
        ybr: whether the DICOM header says that the colours are YCbCr. Asked only where a JPEG
            does not say itself.

    Raises:
        ImageProblem: with nothing decoded when the codestream is not what the header describes.
    """
    # late: uncompressed files need no process, and where there is no fork they still decode
    from models.imaging import codec_pool

    found = codestream.read(data, syntax)
    codestream.check(found, rows, columns, samples, stored, allocated)
    codestream.check_ratio(data, found)
    if samples == 3 and syntax.lossy and syntax.codec in _JPEG and not found.says_colour:
        data = codestream.with_colour(data, ybr)
    frame = codec_pool.Frame(
        syntax.codec.value, data, rows, columns, samples, 1 if found.bits <= 8 else 2
    )
    try:
        return codec_pool.shared().decode(frame), found
    except codec_pool.CodecFailed as failure:
        raise ImageProblem(
            Problem.MALFORMED if failure.cause == "damaged" else Problem.UNUSABLE,
            _SENTENCES[failure.cause],
        ) from None


_JPEG: Final = (Codec.JPEG_8, Codec.JPEG)


@cache
def _installed() -> bool:
    return find_spec("imagecodecs") is not None


@cache
def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "unknown"
