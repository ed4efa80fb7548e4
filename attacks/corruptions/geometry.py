"""Where the pixels lie: positioning, rotation, and the kernels that images are resized with."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from attacks.corruptions.corruption import Corruption, Grid, from_pillow, on_grid, to_pillow

_BOX, _NEAREST = Image.Resampling.BOX, Image.Resampling.NEAREST
_BILINEAR, _BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
_LANCZOS = Image.Resampling.LANCZOS
_SCALES = (0.95, 0.9, 0.8, 0.7, 0.6)


def _shift(pixels: Grid, distance: float, rng: np.random.Generator) -> Grid:
    steps = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
    down, right = np.multiply(rng.choice(steps), int(distance))
    rows = np.clip(np.arange(pixels.shape[0]) - down, 0, pixels.shape[0] - 1)
    columns = np.clip(np.arange(pixels.shape[1]) - right, 0, pixels.shape[1] - 1)
    moved: Grid = pixels[np.ix_(rows, columns)]
    return moved


def _translation(pixels: Grid, distance: float, rng: np.random.Generator) -> Grid:
    """By parts of a pixel, bilinear, in any direction."""
    angle = rng.uniform(0, 2 * np.pi)
    floats = pixels.astype(np.float64)
    for axis, move in enumerate((distance * np.sin(angle), distance * np.cos(angle))):
        floats = _moved(floats, move, axis)
    return on_grid(floats)


def _moved(floats: npt.NDArray[np.float64], distance: float, axis: int) -> npt.NDArray[np.float64]:
    last = floats.shape[axis] - 1
    at = np.clip(np.arange(last + 1) - distance, 0, last)
    before = np.floor(at).astype(np.intp)
    share = (at - before).reshape([-1 if axis == i else 1 for i in range(3)])
    after = np.minimum(before + 1, last)
    moved: npt.NDArray[np.float64]
    moved = floats.take(before, axis) * (1 - share) + floats.take(after, axis) * share
    return moved


def _rotation(pixels: Grid, degrees: float, rng: np.random.Generator) -> Grid:
    angle = degrees * rng.choice((-1.0, 1.0))
    floats = pixels.astype(np.float64)
    return on_grid(ndimage.rotate(floats, angle, reshape=False, order=1, mode="nearest"))


def _smaller_and_back(
    pixels: Grid,
    factor: float,
    _: np.random.Generator,
    *,
    down: Image.Resampling,
    up: Image.Resampling,
) -> Grid:
    height, width = pixels.shape[:2]
    small = max(1, round(width * factor)), max(1, round(height * factor))
    return from_pillow(to_pillow(pixels).resize(small, down).resize((width, height), up))


def _resample(kernel: Image.Resampling) -> Corruption:
    return Corruption(partial(_smaller_and_back, down=kernel, up=kernel), _SCALES, "scale")


KINDS: dict[str, Corruption] = {
    "shift": Corruption(_shift, (1, 2, 3, 4, 5), "pixels"),
    "translation": Corruption(_translation, (0.25, 0.5, 1, 2, 4), "pixels"),
    "rotation": Corruption(_rotation, (1, 2, 3, 5, 10), "degrees"),
    "resample": _resample(_BICUBIC),
    "resample_nearest": _resample(_NEAREST),
    "resample_bilinear": _resample(_BILINEAR),
    "resample_lanczos": _resample(_LANCZOS),
    "pixelate": Corruption(
        partial(_smaller_and_back, down=_BOX, up=_NEAREST), (0.8, 0.7, 0.6, 0.5, 0.4), "scale"
    ),
}
