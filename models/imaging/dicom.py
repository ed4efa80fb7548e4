"""One DICOM frame to display values: stored bits, modality, VOI, polarity (PS3.4 section N.2).

A gray pixel's display value depends on its stored value alone, so the whole chain is worked out
once as a table of at most 65,536 entries, and no header can make it cost more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from models.imaging import (
    codecs,
    colour,
    dicom_layout,
    encapsulated,
    functional_groups,
    grayscale,
    native,
    rle,
    spacing,
    suspicion,
)
from models.imaging.dicom_header import Header, read
from models.imaging.dicom_layout import Layout
from models.imaging.dicom_values import Values, unusable
from models.imaging.image import Decoding, ImageProblem, Limits, Problem
from models.imaging.rendering import RenderingPolicy
from models.imaging.transfer_syntax import Codec

_INSTANCE_UID: Final = 0x00080018
_ICC_PROFILE, _LOSSY = 0x00282000, 0x00282110
_WANTED: Final = (
    grayscale.WANTED
    | colour.WANTED
    | functional_groups.WANTED
    | spacing.WANTED
    | suspicion.WANTED
    | dicom_layout.WANTED
    | {_INSTANCE_UID, _ICC_PROFILE, _LOSSY}
)
_UID: Final = re.compile(rb"[0-9.]{1,64}")

Pixels = npt.NDArray[np.uint8]
Stored = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Instance:
    """A DICOM image whose header has been read and bounded; no pixel has."""

    header: Header
    values: Values
    groups: functional_groups.FunctionalGroups
    layout: Layout
    policy: RenderingPolicy

    @classmethod
    def open(cls, data: bytes, limits: Limits, policy: RenderingPolicy) -> Self:
        """Raises ``ImageProblem`` with a sentence that names what the file would have to be."""
        header = read(data, _WANTED, limits)
        values = Values(header.elements)
        uid = values.element(_INSTANCE_UID)
        if uid is not None and not _UID.fullmatch(uid.value.rstrip(b"\0 ")):
            raise ImageProblem(
                Problem.MALFORMED,
                "The SOP Instance UID is not one (PS3.5 section 9). Export it again.",
            )
        if header.pixels is None:
            raise unusable("The DICOM object has no integer pixel data. Send an image object.")
        layout = Layout.of(values, header.syntax, limits)
        if policy.photometric is not None and layout.photometric not in policy.photometric:
            raise unusable(
                "The model accepts other photometric interpretations: "
                f"{', '.join(policy.photometric)}."
            )
        codecs.require(header.syntax)
        return cls(header, values, functional_groups.FunctionalGroups(values), layout, policy)

    def frame(self, index: int) -> tuple[Pixels, tuple[str, ...], Decoding]:
        """``uint8[Rows, Columns, 1 or 3]`` of one frame, counted from 0; notes; how.

        Raises ``ImageProblem``.
        """
        layout = self.layout
        if not 0 <= index < layout.frames:
            raise unusable(f"The DICOM object has {layout.frames} frames, the first is 0.")
        values = self.groups.of_frame(index)
        notes: list[str] = []
        stored = self._stored(index, notes)
        display: str | None = None
        if layout.monochrome:
            pixels, display = self._shown(values, stored, notes)
        elif layout.photometric == "PALETTE COLOR":
            pixels = self._looked_up(values, stored, notes)
        else:
            pixels = self._coloured(stored, notes)
        if pixels.min() == pixels.max():
            raise unusable(
                "Every pixel has the same display value: the image is blank, or its window or "
                "rescale makes it so."
            )
        if not spacing.square(values):
            notes.append("pixels are not square")
        if self.header.overlays:
            notes.append("overlays not drawn")
        if values.element(_ICC_PROFILE) is not None:
            notes.append("ICC profile not applied")
        if self._lossy:
            notes.append("lossy compression")
        return pixels, tuple(notes), self._decoding(values, index, display)

    def _decoding(self, values: Values, index: int, display: str | None) -> Decoding:
        syntax = self.header.syntax
        return Decoding(
            decoder=codecs.decoder_name(syntax.codec),
            transfer_syntax=syntax.uid,
            policy=self.policy.model_dump_json(),
            display=display,
            lossy=self._lossy,
            frame=index,
            frames=self.layout.frames,
            spacing=spacing.millimetres(values),
        )

    @property
    def _lossy(self) -> bool:
        return self.header.syntax.lossy or self.values.text(_LOSSY, "00") == "01"

    def _stored(self, index: int, notes: list[str]) -> Stored:
        """``[Rows, Columns, samples]`` of one frame as stored."""
        layout, syntax, data = self.layout, self.header.syntax, self.header.pixels
        assert data is not None
        if syntax.codec is Codec.NONE:
            return native.frame(
                data, index, layout.frames, rows=layout.rows, columns=layout.columns,
                samples=layout.samples, allocated=layout.allocated, planar=layout.planar,
                halved=layout.photometric == "YBR_FULL_422",
            )  # fmt: skip
        frame = encapsulated.frame(data, index, layout.frames)
        shape = layout.rows, layout.columns, layout.samples
        if syntax.codec is Codec.RLE:
            # [samples, bytes, pixels], most significant byte first
            planes = rle.decode(
                frame, layout.rows * layout.columns, layout.samples, layout.allocated // 8
            )
            if layout.allocated == 16:
                wide: npt.NDArray[np.uint16] = planes[0, 0].astype(np.uint16)
                wide <<= 8
                wide |= planes[0, 1]
                return wide.reshape(shape)
            return planes[:, 0].T.reshape(shape)
        found, said = codecs.decode(
            frame, syntax, *shape, layout.stored, layout.allocated,
            layout.photometric.startswith("YBR"),
        )  # fmt: skip
        if said.signed != layout.signed and syntax.codec is Codec.JPEG_2000:
            notes.append("the codestream's sign differs from the header's")
        return self._clipped(found, notes) if syntax.lossy and layout.samples == 1 else found

    def _clipped(self, found: Stored, notes: list[str]) -> Stored:
        """Lossy coding overshoots; masked, what is just above white would turn black."""
        if self.layout.signed:
            low, high = -(2 ** (self.layout.stored - 1)), 2 ** (self.layout.stored - 1) - 1
            signed: npt.NDArray[np.signedinteger] = found.view(f"i{found.itemsize}")
            clipped: Stored = np.clip(signed, low, high).view(found.dtype)
        else:
            clipped = np.minimum(found, found.dtype.type(2**self.layout.stored - 1))
        if not np.array_equal(clipped, found):
            notes.append("overshoot of lossy compression clipped")
        return clipped

    def _indices(self, stored: Stored, notes: list[str]) -> Stored:
        """The stored bits alone, read as unsigned."""
        if self.layout.stored == 8 * stored.itemsize:
            return stored
        largest = 2**self.layout.stored - 1
        if int(stored.max()) <= largest:
            return stored
        if not (self.layout.signed and _sign_extended(stored, self.layout.stored)):
            notes.append("unused high bits masked")
        return stored & stored.dtype.type(largest)

    def _shown(self, values: Values, stored: Stored, notes: list[str]) -> tuple[Pixels, str]:
        layout, monochrome1 = self.layout, self.layout.photometric == "MONOCHROME1"
        masked: list[str] = []
        indices = self._indices(stored, masked)
        found = grayscale.display(
            values, layout.stored, layout.signed, monochrome1, self.policy,
            self._padding_inside(values, indices),
        )  # fmt: skip
        notes += [*found.notes, *masked]
        notes += suspicion.polarity(values, monochrome1)
        if not grayscale.shows_range(values, self.policy):
            notes += suspicion.window(indices, found.table)
        return grayscale.through(found.table, indices), found.digest

    def _padding_inside(self, values: Values, indices: Stored) -> bool:
        """Whether some pixels are below and some above those that are padding."""
        # lossy coding blurs padding into the values around it, on both sides
        if self._lossy:
            return False
        padding = grayscale.padding_range(values, self.layout.signed)
        if padding is None:
            return False
        low, high = _extremes(indices, self.layout.stored, self.layout.signed)
        return low < padding[0] and padding[1] < high

    def _looked_up(self, values: Values, stored: Stored, notes: list[str]) -> Pixels:
        table = colour.palette(values, self.layout.stored, self.layout.signed)
        notes.append("palette to gray" if table.shape[1] == 1 else "palette to RGB")
        return table.take(self._indices(stored, notes)[..., 0], axis=0)

    def _coloured(self, stored: Stored, notes: list[str]) -> Pixels:
        pixels = stored.astype(np.uint8, copy=False)
        photometric, codec = self.layout.photometric, self.header.syntax.codec
        # these decoders hand out RGB: JPEG by its markers, JPEG 2000 by its component transform
        by_codec = self.header.syntax.lossy and codec in (Codec.JPEG_8, Codec.JPEG)
        if photometric in ("YBR_FULL", "YBR_FULL_422") and not by_codec:
            pixels = colour.ybr_to_rgb(pixels)
        if photometric.startswith("YBR"):
            notes.append("YBR to RGB")
        return pixels


def _extremes(indices: Stored, bits: int, signed: bool) -> tuple[int, int]:
    """The lowest and highest stored value in use."""
    if not signed:
        return int(indices.min()), int(indices.max())
    half = indices.dtype.type(1 << (bits - 1))
    turned = indices ^ half  # in the order of the signed values
    return int(turned.min()) - int(half), int(turned.max()) - int(half)


def _sign_extended(stored: Stored, bits: int) -> bool:
    """Whether the unused high bits repeat the sign, as they may."""
    size = stored.itemsize
    shift = 8 * size - bits
    signed: npt.NDArray[np.signedinteger] = stored.view(f"i{size}")
    return bool(np.array_equal((signed << shift) >> shift, signed))
