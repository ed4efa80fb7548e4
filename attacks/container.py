"""The file that an attack travels in: what rounding, compression and decoding leave of it.

An attacker sends a file and the service decodes it, so an attack counts after both. The decoder
is the service's own, ``models.imaging.decode``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import PlainSerializer, PlainValidator, WithJsonSchema
from torch import Tensor

from attacks.ball import WHITE, Norm
from attacks.problem import AttackProblem
from models.imaging.decode import DICOM, JPEG, PNG, decode
from models.imaging.encode import dicom, jpeg, png

Grid = npt.NDArray[np.uint8]
"""``uint8[H, W, C]``, C is 1 (gray) or 3 (RGB)."""
Floats = npt.NDArray[np.float32]

# a scale known to 2^-24 places a perturbation of 65,535 steps to less than a hundredth of one
_HALVINGS: Final = 24


class Form(StrEnum):
    """Kinds of file."""

    PNG8 = "png8"
    """8-bit PNG, lossless."""
    JPEG = "jpeg"
    """8-bit baseline JPEG, lossy; colour at half resolution (4:2:0), as most programs save it."""
    DICOM8 = "dicom8"
    """8-bit DICOM, gray or RGB."""
    DICOM12 = "dicom12"
    """Gray DICOM of 12 stored bits, shown through a window that spans them all."""
    DICOM16 = "dicom16"
    """The same with 16 bits."""


_BITS: Final = {Form.DICOM12: 12, Form.DICOM16: 16}
_MEDIA_TYPE: Final = {Form.PNG8: PNG, Form.JPEG: JPEG}
_SUFFIX: Final = {PNG: ".png", JPEG: ".jpg", DICOM: ".dcm"}


@dataclass(frozen=True, slots=True)
class Delivered:
    """One adversarial image as sent and as received."""

    file: bytes
    """What the attacker sends."""
    pixels: Grid
    """What the service's decoder makes of it."""
    source: Grid
    """What the decoder makes of the unattacked source in the same container: the source itself,
    unless the container is lossy. Compare ``pixels`` with this."""
    change: Floats
    """What epsilon bounds: the perturbation in grey levels, on the container's grid and before
    any compression. Finer than whole levels for 12 and 16 bits."""


@dataclass(frozen=True, slots=True)
class Container:
    """A kind of file and its settings; ``str`` and ``parse`` turn it to text and back."""

    form: Form
    quality: int | None = None
    """JPEG's, 1 to 100; None for the others."""

    def __post_init__(self) -> None:
        if self.form is not Form.JPEG and self.quality is not None:
            raise AttackProblem(f"{self.form} has no quality; only jpeg has one")
        if self.form is Form.JPEG and (self.quality is None or not 1 <= self.quality <= 100):
            raise AttackProblem("a JPEG needs a quality from 1 to 100, as in jpeg:90")

    def __str__(self) -> str:
        return self.form if self.quality is None else f"{self.form}:{self.quality}"

    @classmethod
    def parse(cls, text: str) -> Container:
        """The inverse of ``str``. Raises ``AttackProblem``, which names the choices."""
        name, colon, quality = text.partition(":")
        if name not in list(Form) or (colon and not (quality.isascii() and quality.isdigit())):
            raise AttackProblem(
                f"no container is called {text!r}; choose from png8, jpeg:1 to jpeg:100, dicom8, "
                "dicom12 and dicom16"
            )
        return cls(Form(name), int(quality) if colon else None)

    @property
    def media_type(self) -> str:
        """The Content-Type to send it with."""
        return _MEDIA_TYPE.get(self.form, DICOM)

    @property
    def suffix(self) -> str:
        """Of a file name: ``.png``, ``.jpg`` or ``.dcm``."""
        return _SUFFIX[self.media_type]

    @property
    def white(self) -> int:
        """The largest stored value: 255, 4095 or 65535. Black is 0, and a stored value v is
        ``255 v / white`` grey levels."""
        return (1 << _BITS.get(self.form, 8)) - 1

    @property
    def lossless(self) -> bool:
        """Whether nothing but rounding happens to the pixels."""
        return self.form is not Form.JPEG

    @property
    def plain(self) -> bool:
        """Whether the decoded pixels tell the file: ``source_file`` of them writes it again."""
        return self.lossless and self.form not in _BITS

    def deliver(
        self,
        pixels: Floats,
        source: Grid,
        *,
        epsilon: float | None,
        norm: Norm = Norm.LINF,
    ) -> Delivered:
        """Round ``pixels`` within epsilon of the source, write the file and decode it.

        Epsilon bounds ``Delivered.change``, the perturbation in the file's own units. With 12 or
        16 bits the decoder rounds once more, so ``Delivered.pixels`` may differ from the source
        by ``epsilon + (255 / white + 1) / 2`` grey levels. JPEG bounds nothing after encoding.

        Args:
            pixels: ``float32[H, W, C]`` in grey levels.
            source: ``uint8[H, W, C]``, the image that was attacked.
            epsilon: in grey levels (L0: pixels); None rounds to nearest and bounds nothing.
            norm: what epsilon measures.

        Raises:
            AttackProblem: colour for 12 or 16 bits.
            ImageProblem: if the service would not take the file, as a blank DICOM.
        """
        if pixels.shape != source.shape:
            raise AttackProblem(f"pixels are {pixels.shape} and the source is {source.shape}")
        stored = self._stored(source)
        wanted = np.clip(pixels.astype(np.float64), 0, WHITE) * (self.white / WHITE)
        change = _rounded(wanted, stored, self._steps(epsilon, norm), norm)
        file = self._write(stored + change)
        return Delivered(
            file,
            decode(file, self.media_type).pixels,
            self._decoded_source(source),
            (change * (WHITE / self.white)).astype(np.float32),
        )

    def source_file(self, source: Grid) -> bytes:
        """The unattacked ``uint8[H, W, C]`` in the same container: same history, same losses."""
        return self._write(self._stored(source))

    def query(self, pixels: Tensor) -> Tensor:
        """What the service's decoder makes of ``float32[N, H, W, C]`` grey levels sent in this
        container: ``float32[N, H, W, C]``, whole grey levels. No gradient passes."""
        self._check_channels(pixels.shape[3])
        with torch.no_grad():
            if self.form is Form.JPEG:
                return self._compressed(pixels)
            # float64 as in deliver, so that a tie falls to the same side in both
            stored = (pixels.double() * (self.white / WHITE)).round().clamp(0, self.white)
            return (stored * (WHITE / self.white) + 0.5).floor().to(pixels.dtype)

    def through(self, pixels: Tensor) -> Tensor:
        """``query`` with the identity as its gradient, the straight-through estimator (BPDA,
        Athalye et al. 2018, arXiv 1802.00420)."""
        # the bracket is exactly 0, so the values are the query's to the last bit
        return self.query(pixels) + (pixels - pixels.detach())

    def _stored(self, source: Grid) -> npt.NDArray[np.float64]:
        if source.dtype != np.uint8 or source.ndim != 3:
            raise AttackProblem(f"{source.dtype}{list(source.shape)} is not uint8[H, W, 1 or 3]")
        self._check_channels(source.shape[2])
        return np.rint(source.astype(np.float64) * (self.white / WHITE))

    def _check_channels(self, channels: int) -> None:
        if channels not in (1, 3):
            raise AttackProblem(f"{channels} channels; an image is gray (1) or RGB (3)")
        if channels == 3 and self.form in _BITS:
            raise AttackProblem(f"{self} holds gray images only; send colour as png8 or dicom8")

    def _steps(self, epsilon: float | None, norm: Norm) -> float:
        """Epsilon in steps of the grid; L0 counts pixels, whatever the grid."""
        if epsilon is None:
            return math.inf
        return epsilon if norm is Norm.L0 else epsilon * self.white / WHITE

    def _write(self, stored: npt.NDArray[np.float64]) -> bytes:
        if self.form in _BITS:
            return dicom(stored.astype(np.uint16), bits_stored=_BITS[self.form])
        grid = stored.astype(np.uint8)
        if self.form is Form.JPEG:
            assert self.quality is not None
            return jpeg(grid, self.quality)
        return png(grid) if self.form is Form.PNG8 else dicom(grid)

    def _decoded_source(self, source: Grid) -> Grid:
        if self.form is not Form.JPEG:
            return source
        return decode(self.source_file(source), self.media_type).pixels

    def _compressed(self, pixels: Tensor) -> Tensor:
        grids = pixels.round().clamp(0, WHITE).byte().cpu().numpy()
        decoded = [decode(self.source_file(grid), self.media_type).pixels for grid in grids]
        return torch.from_numpy(np.stack(decoded)).to(pixels)


def _rounded(
    pixels: npt.NDArray[np.float64], source: npt.NDArray[np.float64], reach: float, norm: Norm
) -> npt.NDArray[np.float64]:
    """The perturbation in whole steps of the grid that ``reach`` allows.

    L-inf: the nearest step, held to the largest whole one within reach; between two whole numbers
    plain rounding would leave the ball (0.5 becomes 1). L2 and L1: the nearest step where that
    fits, else the nearest after shrinking the perturbation by as little as makes it fit. L0: the
    nearest step, for rounding moves no pixel that was not moved.

    Args:
        pixels: ``[H, W, C]`` in steps.
        source: ``[H, W, C]``, whole steps.
        reach: epsilon in steps (L0: pixels).
    """
    change = np.rint(pixels) - source
    if norm is Norm.L0 or math.isinf(reach):
        return change
    if norm is Norm.LINF:
        return np.clip(change, -math.floor(reach), math.floor(reach))
    order = 2 if norm is Norm.L2 else 1
    if np.linalg.norm(change.ravel(), order) <= reach:
        return change
    wanted = pixels - source
    # no component of rint(scale * wanted) ever shrinks as the scale grows, so bisection is exact
    fits, too_far = 0.0, 1.0
    for _ in range(_HALVINGS):
        scale = (fits + too_far) / 2
        if np.linalg.norm(np.rint(scale * wanted).ravel(), order) <= reach:
            fits = scale
        else:
            too_far = scale
    return np.rint(fits * wanted)


def _parsed(value: Any) -> Container:
    if isinstance(value, Container):
        return value
    if isinstance(value, str):
        return Container.parse(value)
    raise AttackProblem(f"a container is text such as jpeg:90, not {type(value).__name__}")


AnyContainer = Annotated[
    Container,
    PlainValidator(_parsed),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["png8", "jpeg:90", "dicom12"]}),
]
"""For pydantic models: a container, written as its text."""

PNG8: Final = Container(Form.PNG8)
"""What attacks travel in if nothing else is asked for."""
