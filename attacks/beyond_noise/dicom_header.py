"""DICOM header evasion: the stored pixels stay as they are, and the header shows them otherwise.

Whoever compares or hashes the pixel data of such a file finds the original.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from attacks.access import fooled
from attacks.beyond_noise.search import NONE, first_to_fool, multiples
from attacks.objective import Model
from attacks.spec import AttackSpec, Kind, Need, Scene
from models.imaging.decode import DICOM, decode
from models.imaging.dicom_header import Element
from models.imaging.dicom_values import Values
from models.imaging.encode import dicom
from models.imaging.grayscale import display_table

_CENTER, _WIDTH, _FUNCTION = 0x00281050, 0x00281051, 0x00281056
_INTERCEPT, _SLOPE = 0x00281052, 0x00281053

Carrier = Literal["window", "rescale"]


@dataclass(frozen=True, slots=True)
class Header:
    """What decides how 8 stored bits are shown. The default shows them unchanged."""

    center: float = 128.0
    width: float = 256.0
    """Window Center and Window Width, (0028,1050) and (0028,1051)."""
    function: Literal["LINEAR", "SIGMOID"] = "LINEAR"
    """VOI LUT Function, (0028,1056); PS3.3 section C.11.2.1.2 has the formula of LINEAR and section
    C.11.2.1.3 that of SIGMOID."""
    slope: float = 1.0
    intercept: float = 0.0
    """Rescale Slope and Rescale Intercept, (0028,1053) and (0028,1052); PS3.3 section C.11.1. They
    come before the window."""
    photometric: Literal["MONOCHROME1", "MONOCHROME2"] = "MONOCHROME2"
    """Photometric Interpretation, (0028,0004); MONOCHROME1 shows the lowest value white."""


AS_STORED = Header()


def dicom_header(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    headers: Sequence[Header],
    *,
    targeted: bool = False,
) -> Tensor:
    """What the decoder shows of each image under the nearest header that fools the model.

    Args:
        pixels: ``float32[N, H, W, C]``, whole grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        headers: those to choose from.

    Returns ``float32[N, H, W, C]``, decoded from the files that ``write`` makes; the source where
    no header fools the model or none is needed, and colour images, which have no window.
    """
    attacked = pixels.clone()
    found = best_header(model, pixels, labels, headers, targeted=targeted)
    for row, header in enumerate(found):
        if header is not None and header != AS_STORED:
            stored = pixels[row].cpu().numpy().astype(np.uint8)
            attacked[row] = torch.from_numpy(decode(write(stored, header), DICOM).pixels).to(pixels)
    return attacked


def best_header(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    headers: Sequence[Header],
    *,
    targeted: bool = False,
) -> list[Header | None]:
    """For each image the header whose display is nearest the source in L2 of those that fool the
    model. ``AS_STORED`` where the source does already, None where none does and for colour."""
    if pixels.shape[3] != 1:
        return [None] * len(pixels)
    tables = np.array([shown(header) for header in headers], np.uint8).reshape(-1, 256)
    order, usable = _nearest_first(pixels, tables)
    lookup = torch.from_numpy(tables).to(pixels)
    stored, shape = pixels.long(), pixels.shape[1:]
    with torch.no_grad():
        already = fooled(model, pixels, labels, targeted=targeted)
    chosen = first_to_fool(
        model,
        labels,
        lambda rows, choice: lookup[choice].gather(1, stored[rows].flatten(1)).view(-1, *shape),
        order,
        ~already,
        targeted=targeted,
    )
    answers: list[Header | None] = []
    for row, (choice, done) in enumerate(zip(chosen.tolist(), already.tolist(), strict=True)):
        if done:
            answers.append(AS_STORED)
        else:
            answers.append(headers[choice] if choice != NONE and usable[row, choice] else None)
    return answers


def _nearest_first(
    pixels: Tensor, tables: npt.NDArray[np.uint8]
) -> tuple[Tensor, npt.NDArray[np.bool_]]:
    """``int64[N, M]``, each image's tables by the L2 change they make, and ``bool[N, M]``, whether
    anything is left to see: the decoder refuses blank images. Those come last.

    A display value depends on the stored value alone, so the histogram gives both exactly.
    """
    images = pixels.cpu().numpy().astype(np.uint8).reshape(len(pixels), -1)
    counts = np.stack([np.bincount(image, minlength=256) for image in images]).astype(np.float64)
    change = np.square(tables.astype(np.float64) - np.arange(256))
    present = counts[:, None] > 0
    lowest = np.where(present, tables, 255).min(axis=2)
    highest = np.where(present, tables, 0).max(axis=2)
    usable = lowest < highest
    order = np.argsort(np.where(usable, counts @ change.T, np.inf), axis=1, kind="stable")
    return torch.from_numpy(order).to(pixels.device), usable


@cache
def shown(header: Header) -> npt.NDArray[np.uint8]:
    """``uint8[256]``: the display value of every stored value, by the decoder's own table."""
    elements = {
        _CENTER: _decimal(header.center),
        _WIDTH: _decimal(header.width),
        _FUNCTION: header.function,
        _SLOPE: _decimal(header.slope),
        _INTERCEPT: _decimal(header.intercept),
    }
    values = Values({tag: Element(text.encode(), True) for tag, text in elements.items()})
    table, _ = display_table(values, 8, False, header.photometric == "MONOCHROME1")
    table.flags.writeable = False
    return table


def write(stored: npt.NDArray[np.uint8], header: Header) -> bytes:
    """The DICOM file of ``uint8[H, W, 1]`` as stored, to be shown as ``header`` says. Its pixel
    data and UIDs are those of the file that shows them unchanged."""
    return edited(dicom(stored), header)


def edited(file: bytes, header: Header) -> bytes:
    """A gray DICOM file of 8 unsigned bits with another header, and nothing else changed."""
    from pydicom import dcmread, dcmwrite

    dataset = dcmread(io.BytesIO(file))
    dataset.WindowCenter, dataset.WindowWidth = _decimal(header.center), _decimal(header.width)
    dataset.VOILUTFunction = header.function
    dataset.RescaleSlope = _decimal(header.slope)
    dataset.RescaleIntercept = _decimal(header.intercept)
    dataset.PhotometricInterpretation = header.photometric
    # MONOCHROME1 requires INVERSE (PS3.3 section C.8.11.3); together they invert once
    inverse = header.photometric == "MONOCHROME1"
    dataset.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    stream = io.BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def _decimal(value: float) -> str:
    """A Decimal String of at most 16 characters (PS3.5 section 6.2)."""
    return f"{value:.9g}"


def choices(
    *,
    shift: float,
    shift_spacing: float,
    stretch: float,
    stretch_spacing: float,
    carrier: Carrier,
    sigmoid: bool,
    inverted: bool,
) -> tuple[Header, ...]:
    """Every header to choose from but ``AS_STORED``.

    Args:
        shift: the window's centre lies within so many grey levels of 128.
        shift_spacing: of the centres, in grey levels.
        stretch: the window's width lies in ``[256 / stretch, 256 stretch]``.
        stretch_spacing: of the logarithms of the widths.
        carrier: ``rescale`` leaves the window at 128 and 256 and puts the same linear map into
            the rescale, where a check of the window does not see it.
        sigmoid: also with SIGMOID; a rescale has no such thing.
        inverted: also as MONOCHROME1.
    """
    centers = [128 + step for step in multiples(shift, shift_spacing).tolist()]
    widths = [
        round(256 * math.exp(step), 4)
        for step in multiples(math.log(stretch), stretch_spacing).tolist()
    ]
    linear = [
        Header(center, width) if carrier == "window" else _through_rescale(center, width)
        for center in centers
        for width in widths
    ]
    curved = [Header(center, width, "SIGMOID") for center in centers for width in widths]
    upright = linear + (curved if sigmoid and carrier == "window" else [])
    turned = [
        Header(h.center, h.width, h.function, h.slope, h.intercept, "MONOCHROME1")
        for h in (upright if inverted else ())
    ]
    return tuple(header for header in (*upright, *turned) if header != AS_STORED)


def _through_rescale(center: float, width: float) -> Header:
    """The rescale after which the full window shows what the given LINEAR window shows:
    ``((x - (c - 0.5)) / (w - 1) + 0.5) 255`` of PS3.3 section C.11.2.1.2."""
    slope = 255 / (width - 1)
    return Header(slope=round(slope, 6), intercept=round(127.5 - slope * (center - 0.5), 4))


class DicomHeader(AttackSpec):
    """Spec of ``dicom_header``."""

    citation: ClassVar = (
        "DICOM PS3.3 sections C.11.1, C.11.2.1.2 and C.11.2.1.3, used against the reader"
    )
    kind: ClassVar = Kind.MINIMUM
    needs: ClassVar = frozenset({Need.DECISIONS})
    smoke: ClassVar = {"shift_spacing": 32.0, "stretch_spacing": 0.5}

    method: Literal["dicom_header"] = "dicom_header"
    epsilon: None = None
    """No norm bounds it."""
    shift: Annotated[float, Field(ge=0, le=127, json_schema_extra={"unit": "grey levels"})] = 64.0
    """The window's centre lies so far from 128 at most."""
    shift_spacing: Annotated[
        float, Field(ge=0.5, le=127, json_schema_extra={"unit": "grey levels"})
    ] = 8.0
    stretch: Annotated[float, Field(ge=1, le=16)] = 2.0
    """The window's width lies in ``[256 / stretch, 256 stretch]``."""
    stretch_spacing: Annotated[float, Field(ge=0.01, le=3)] = 0.1
    """Of the logarithms of the widths: 0.1 is steps of 10 percent."""
    carrier: Carrier = "window"
    """``rescale`` puts the window's linear map into the rescale and leaves the window alone."""
    sigmoid: bool = True
    """Also with the VOI LUT function SIGMOID, if the window is the carrier."""
    inverted: bool = True
    """Also as MONOCHROME1."""

    @property
    def headers(self) -> tuple[Header, ...]:
        """Those to choose from, for ``best_header``."""
        return choices(
            shift=self.shift,
            shift_spacing=self.shift_spacing,
            stretch=self.stretch,
            stretch_spacing=self.stretch_spacing,
            carrier=self.carrier,
            sigmoid=self.sigmoid,
            inverted=self.inverted,
        )

    def attack(self, scene: Scene) -> Tensor:
        return dicom_header(
            scene.model, scene.pixels, scene.labels, self.headers, targeted=self.targeted
        )
