"""As delivered: an attacker sends a file, so an attack counts after rounding and decoding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from models.imaging.decode import decode
from models.imaging.encode import png

Grid = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


class Container(StrEnum):
    """What kind of file the adversarial image travels in."""

    PNG8 = "png8"
    """8-bit PNG: every integer grey level from 0 to 255, lossless."""


@dataclass(frozen=True, slots=True)
class Norms:
    """Size of a perturbation, in grey levels, over all pixels and channels."""

    linf: float
    l2: float
    mean_abs: float


def to_grid(pixels: npt.NDArray[np.float32], source: Grid, epsilon: float) -> Grid:
    """Round to the nearest integer grey level that ``epsilon`` allows.

    Where epsilon is a whole number that is plain rounding. Between two whole numbers plain
    rounding would leave the ball (0.5 becomes 1), so the perturbation is held to the whole number
    below: at half a grey level the source is the only 8-bit image in reach.

    Args:
        pixels: ``float32[H, W, C]`` in grey levels.
        source: ``uint8[H, W, C]``, the image that was attacked.
        epsilon: L-inf budget in grey levels.

    Returns ``uint8[H, W, C]``.
    """
    reach = math.floor(epsilon)
    change = np.clip(np.rint(pixels) - source, -reach, reach)
    grid: Grid = np.clip(source + change, 0, 255).astype(np.uint8)
    return grid


def to_file(pixels: Grid, container: Container) -> bytes:
    """The file that the attacker sends."""
    match container:
        case Container.PNG8:
            return png(pixels)


def as_delivered(pixels: Grid, container: Container) -> Grid:
    """``uint8[H, W, C]``: what the service's own decoder makes of that file."""
    return decode(to_file(pixels, container)).pixels


def norms(pixels: Pixels, source: Grid) -> Norms:
    """Size of ``pixels - source``, both ``[H, W, C]``."""
    change = pixels.astype(np.float64) - source
    return Norms(
        linf=float(np.abs(change).max()),
        l2=float(np.sqrt(np.square(change).sum())),
        mean_abs=float(np.abs(change).mean()),
    )
