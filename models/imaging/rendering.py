"""How a model wants stored gray values shown: the part of its declaration that decoding obeys.

An attacker owns a file's header, and so the file's window. A model that always saw one window
says so here, and the file's is then not asked.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Photometric = Literal[
    "MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT",
    "YBR_RCT",
]  # fmt: skip


Side = Annotated[int, Field(ge=16, le=4096)]


class Window(BaseModel):
    """A window of the model's own, in units after the modality LUT: Hounsfield units for CT.

    The functions are PS3.3 section C.11.2.1.2's and C.11.2.1.3's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    center: Annotated[float, Field(ge=-1e9, le=1e9)]
    width: Annotated[float, Field(ge=1, le=1e9)]
    function: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"] = "LINEAR"


class RenderingPolicy(BaseModel):
    """What is shown of a file. The default takes a DICOM file's word and all of a JPEG's pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: Literal["file", "range"] | Window = "file"
    """``file``: the file's window, else its VOI LUT, else the range. ``range``: all that the
    stored bits can express, whatever window the file has. Or one window for every file."""
    file_window: Annotated[int, Field(ge=1, le=16)] = 1
    """Which of the file's windows, where it has several."""
    padding: Literal["black", "shown"] = "black"
    """Pixels that the file calls padding: black, or shown like any other."""
    photometric: tuple[Photometric, ...] | None = None
    """Photometric interpretations that are accepted; None accepts all that are read. A site
    whose devices only write MONOCHROME2 says so, and a flipped tag is refused."""
    jpeg: tuple[Side, Side] | None = None
    """``(rows, columns)``: a JPEG file is decoded straight to the smallest of 1/1, 1/2, 1/4 and 1/8
    of its size that has at least so many (libjpeg's scaled DCT). None: at its full size. Another
    function of the file, several times cheaper: the guard is fitted on what it gives."""
