"""How a DICOM image's samples are stored (PS3.3 section C.7.6.3), checked for sense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from models.imaging.bounds import check_size
from models.imaging.dicom_values import Values, unusable
from models.imaging.image import ImageProblem, Limits, Problem
from models.imaging.transfer_syntax import Codec, TransferSyntax

_SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES = 0x00280002, 0x00280004, 0x00280006, 0x00280008
_ROWS, _COLUMNS = 0x00280010, 0x00280011
_ALLOCATED, _STORED, _HIGH_BIT, _SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103
WANTED: Final = frozenset(
    {
        _SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES, _ROWS, _COLUMNS,
        _ALLOCATED, _STORED, _HIGH_BIT, _SIGNED,
    }
)  # fmt: skip

_GRAY: Final = ("MONOCHROME1", "MONOCHROME2")
_COLOUR: Final = {
    "RGB": None,
    "YBR_FULL": None,
    "YBR_FULL_422": (Codec.NONE, Codec.JPEG_8, Codec.JPEG),
    "YBR_ICT": (Codec.JPEG_2000,),
    "YBR_RCT": (Codec.JPEG_2000,),
}
"""Photometric interpretations of three samples, and the codecs that they belong to, if to any."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the samples of every frame are stored (PS3.3 section C.7.6.3)."""

    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    allocated: int
    stored: int
    signed: bool
    planar: bool

    @property
    def monochrome(self) -> bool:
        """Whether it is gray without a palette."""
        return self.photometric in _GRAY

    @classmethod
    def of(cls, values: Values, syntax: TransferSyntax, limits: Limits) -> Self:
        """Raises ``ImageProblem`` for a layout that contradicts itself or is not read."""
        rows, columns = values.integer(_ROWS), values.integer(_COLUMNS)
        check_size(rows, columns, limits)
        frames = values.integer_string(_FRAMES, 1)
        if not 1 <= frames <= limits.frames:
            raise unusable(f"The number of frames must be 1 to {limits.frames}.")
        photometric = values.text(_PHOTOMETRIC)
        coloured = photometric in _COLOUR
        if not coloured and photometric not in (*_GRAY, "PALETTE COLOR"):
            raise unusable(
                "The photometric interpretation is not read here. Send MONOCHROME1, MONOCHROME2, "
                "PALETTE COLOR, RGB or YBR_FULL."
            )
        found = cls(
            rows=rows,
            columns=columns,
            frames=frames,
            samples=values.integer(_SAMPLES),
            photometric=photometric,
            allocated=values.integer(_ALLOCATED),
            stored=values.integer(_STORED),
            signed=values.integer(_SIGNED, 0) == 1,
            planar=coloured and values.integer(_PLANAR, 0) == 1,
        )
        codecs_of = _COLOUR.get(photometric)
        wrong_codec = codecs_of is not None and syntax.codec not in codecs_of
        if found.samples != (3 if coloured else 1) or wrong_codec:
            raise ImageProblem(
                Problem.MALFORMED,
                "Samples per Pixel or the transfer syntax contradicts the photometric "
                "interpretation. Export it again.",
            )
        if (
            found.allocated not in ((8,) if coloured else (8, 16))
            or not 1 <= found.stored <= found.allocated
            or values.integer(_SIGNED, 0) > 1
        ):
            raise unusable("Only gray images of 8 or 16 bits and colour of 8 bits are read here.")
        if values.integer(_HIGH_BIT, found.stored - 1) != found.stored - 1:
            raise unusable("High Bit is not Bits Stored less one, a layout that DICOM has retired.")
        if coloured and (found.stored != 8 or found.signed):
            raise unusable("Only colour of 8 unsigned bits is read here.")
        if photometric == "YBR_FULL_422" and (columns % 2 or found.planar):
            raise unusable("YBR_FULL_422 needs an even number of columns and colour by pixel.")
        return found
