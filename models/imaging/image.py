"""A decoded image, the bounds on decoding, and what can be wrong with a file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Image:
    """Pixels as the model sees them, before the graph's own preprocessing."""

    pixels: npt.NDArray[np.uint8]
    """``uint8[H, W, C]``, C-contiguous; C is 1 (gray, black is 0) or 3 (RGB)."""
    media_type: str
    """What the bytes were found to be, whatever the sender called them."""
    digest: str
    """``sha256:`` over shape and pixels: two files with the same pixels share it."""
    notes: tuple[str, ...] = ()
    """What decoding had to do, in fixed words ("inverted MONOCHROME1", "16 to 8 bits")."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that hold before any pixel is decoded."""

    file_bytes: int = 64 * 2**20
    pixels: int = 40_000_000  # a 4,664 x 3,064 mammogram is 14 million
    side: int = 16_384
    smallest_side: int = 16


class Problem(Enum):
    """Kinds of refusal and the HTTP status that each one means."""

    MALFORMED = 400
    TOO_LARGE = 413
    UNSUPPORTED = 415
    UNUSABLE = 422


class ImageProblem(Exception):
    """A file that cannot be diagnosed. ``detail`` is a sentence for the sender: what is wrong
    and what to do. It never quotes the file's own text."""

    def __init__(self, problem: Problem, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail
