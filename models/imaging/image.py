"""A decoded image, the bounds on decoding, and what can be wrong with a file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a file became pixels: what another decoder, window or policy would change."""

    decoder: str = ""
    """Library, version and codec."""
    transfer_syntax: str | None = None
    """DICOM's UID."""
    policy: str | None = None
    """The model's ``RenderingPolicy``, as JSON; None where nothing is rendered."""
    display: str | None = None
    """``sha256:`` over the table from stored to display values; None for colour."""
    lossy: bool = False
    """Whether a lossy compression is on record in the header, or may have happened in the
    transfer syntax."""
    frame: int = 0
    frames: int = 1
    spacing: tuple[float, float] | None = None
    """Millimetres between rows and between columns, where the file says so."""

    @property
    def fingerprint(self) -> str:
        """``sha256:`` over decoder, transfer syntax, policy and display table: two files that
        share it were shown alike."""
        return _fingerprint(self.decoder, self.transfer_syntax, self.policy, self.display)

    def record(self) -> dict[str, Any]:
        """What a record keeps, as JSON; nothing of it is from the file's own text."""
        return {
            "fingerprint": self.fingerprint,
            "decoder": self.decoder,
            "transfer_syntax": self.transfer_syntax,
            "lossy": self.lossy,
            "frame": self.frame,
            "frames": self.frames,
        }


@lru_cache(maxsize=64)
def _fingerprint(*said: str | None) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(said).encode()).hexdigest()}"


SUSPECT: Final = "suspect header: "
"""How a note begins that says that a header contradicts itself or hides the picture."""


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
    decoding: Decoding = Decoding()

    @property
    def suspicions(self) -> tuple[str, ...]:
        """Those notes that tell of a header that looks tampered with."""
        return tuple(note for note in self.notes if note.startswith(SUSPECT))


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that hold before any pixel is decoded."""

    file_bytes: int = 64 * 2**20
    pixels: int = 40_000_000  # a 4,664 x 3,064 mammogram is 14 million
    side: int = 16_384
    smallest_side: int = 16
    header_bytes: int = 4 * 2**20  # of DICOM, before the pixels; functional groups take the most
    frames: int = 20_000


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
