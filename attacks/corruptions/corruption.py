"""What a corruption is, and the two ways between its pixels and Pillow's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Grid = npt.NDArray[np.uint8]
"""``uint8[H, W, C]``, C is 1 or 3."""
Change = Callable[[Grid, float, np.random.Generator], Grid]


@dataclass(frozen=True, slots=True)
class Corruption:
    """A benign shift with its levels, mildest first."""

    change: Change
    """From pixels, a level and a random generator to pixels of the same shape."""
    levels: tuple[float, ...]
    """What severity 1, 2, ... mean, in ``unit``."""
    unit: str
    colour: bool = False
    """Whether it changes colour alone, so that a gray image comes back as it was."""

    @property
    def severities(self) -> range:
        """The severities it has, from 1."""
        return range(1, len(self.levels) + 1)


def on_grid(values: npt.NDArray[np.floating]) -> Grid:
    """Rounded and clipped to ``uint8``."""
    grid: Grid = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return grid


def to_pillow(pixels: Grid) -> Image.Image:
    """Mode L or RGB."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def from_pillow(image: Image.Image) -> Grid:
    """``uint8[H, W, C]`` of a Pillow image of mode L or RGB."""
    pixels = np.array(image, dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels
