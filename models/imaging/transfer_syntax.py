"""The transfer syntaxes that are read (PS3.5 annex A), and the one decoder of each.

One, because decoders differ: for lossy JPEG by up to three grey levels, as much as an attack.
What is installed besides must never change what a file shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
RLE_LOSSLESS: Final = "1.2.840.10008.1.2.5"
JPEG_BASELINE: Final = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED: Final = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS: Final = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1: Final = "1.2.840.10008.1.2.4.70"
JPEG_LS_LOSSLESS: Final = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR: Final = "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS: Final = "1.2.840.10008.1.2.4.90"
JPEG_2000: Final = "1.2.840.10008.1.2.4.91"
HTJ2K_LOSSLESS: Final = "1.2.840.10008.1.2.4.201"
HTJ2K_LOSSLESS_RPCL: Final = "1.2.840.10008.1.2.4.202"
HTJ2K: Final = "1.2.840.10008.1.2.4.203"


class Codec(Enum):
    """What undoes a compression. The value is its name in a decode fingerprint."""

    NONE = "native"
    RLE = "rle"
    JPEG_8 = "jpeg8"
    """Pillow's libjpeg-turbo: part of every installation."""
    JPEG = "jpeg"
    """libjpeg-turbo of imagecodecs: also 12 bits and lossless."""
    JPEG_LS = "jpegls"
    """CharLS."""
    JPEG_2000 = "jpeg2k"
    """OpenJPEG, also for HTJ2K."""

    @property
    def in_child(self) -> bool:
        """Whether it runs in a process that may be killed: every codec whose code reads a
        hostile codestream. The others copy bytes."""
        return self not in (Codec.NONE, Codec.RLE)

    @property
    def extra(self) -> bool:
        """Whether it needs ``lazaret[dicom]``."""
        return self in (Codec.JPEG, Codec.JPEG_LS, Codec.JPEG_2000)


@dataclass(frozen=True, slots=True)
class TransferSyntax:
    """One transfer syntax that is read."""

    uid: str
    name: str
    codec: Codec = Codec.NONE
    lossy: bool = False
    """Whether it may lose something; some lossy syntaxes also carry lossless images."""

    @property
    def encapsulated(self) -> bool:
        """Whether Pixel Data is a sequence of fragments (PS3.5 section A.4)."""
        return self.codec is not Codec.NONE


TRANSFER_SYNTAXES: Final = {
    syntax.uid: syntax
    for syntax in (
        TransferSyntax(IMPLICIT_LITTLE, "Implicit VR Little Endian"),
        TransferSyntax(EXPLICIT_LITTLE, "Explicit VR Little Endian"),
        TransferSyntax(DEFLATED, "Deflated Explicit VR Little Endian"),
        TransferSyntax(RLE_LOSSLESS, "RLE Lossless", Codec.RLE),
        TransferSyntax(JPEG_BASELINE, "JPEG Baseline", Codec.JPEG_8, lossy=True),
        TransferSyntax(JPEG_EXTENDED, "JPEG Extended", Codec.JPEG, lossy=True),
        TransferSyntax(JPEG_LOSSLESS, "JPEG Lossless", Codec.JPEG),
        TransferSyntax(JPEG_LOSSLESS_SV1, "JPEG Lossless SV1", Codec.JPEG),
        TransferSyntax(JPEG_LS_LOSSLESS, "JPEG-LS Lossless", Codec.JPEG_LS),
        TransferSyntax(JPEG_LS_NEAR, "JPEG-LS Near-Lossless", Codec.JPEG_LS, lossy=True),
        TransferSyntax(JPEG_2000_LOSSLESS, "JPEG 2000 Lossless", Codec.JPEG_2000),
        TransferSyntax(JPEG_2000, "JPEG 2000", Codec.JPEG_2000, lossy=True),
        TransferSyntax(HTJ2K_LOSSLESS, "HTJ2K Lossless", Codec.JPEG_2000),
        TransferSyntax(HTJ2K_LOSSLESS_RPCL, "HTJ2K Lossless RPCL", Codec.JPEG_2000),
        TransferSyntax(HTJ2K, "HTJ2K", Codec.JPEG_2000, lossy=True),
    )
}
"""By UID: what is decoded, and so what a receiver may accept."""


def read_here() -> tuple[str, ...]:
    """UIDs that this installation decodes: without the ``dicom`` extra fewer."""
    from importlib.util import find_spec

    extra = find_spec("imagecodecs") is not None
    return tuple(
        uid for uid, syntax in TRANSFER_SYNTAXES.items() if extra or not syntax.codec.extra
    )
