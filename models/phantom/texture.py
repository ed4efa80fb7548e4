"""Blurs, band-limited noise and point clouds on the unit grid."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Map = npt.NDArray[np.float64]


def blur(image: Map, width: float) -> Map:
    """Gaussian blur, its standard deviation in units of the image's side, renormalised at the
    borders."""
    matrix = _gaussian(image.shape[0], width)
    blurred: Map = matrix @ image @ matrix.T
    return blurred


def noise(rng: np.random.Generator, size: int, coarse: float) -> Map:
    """Gaussian noise of mean 0 and deviation 1, blurred by ``coarse`` image sides."""
    field = blur(rng.standard_normal((size, size)), coarse)
    return (field - float(field.mean())) / (float(field.std()) + 1e-12)


def scatter_points(x: Map, y: Map, weight: Map, size: int) -> Map:
    """Sum weights of points in [-1, 1] into pixels, bilinearly; points outside are dropped."""
    column, row = (x + 1) * size / 2 - 0.5, (y + 1) * size / 2 - 0.5
    total = np.zeros(size * size)
    for down in (0, 1):
        for across in (0, 1):
            r, c = np.floor(row).astype(int) + down, np.floor(column).astype(int) + across
            share = weight * (1 - np.abs(row - r)) * (1 - np.abs(column - c))
            inside = (r >= 0) & (r < size) & (c >= 0) & (c < size)
            total += np.bincount((r * size + c)[inside], share[inside], size * size)
    return total.reshape(size, size)


@lru_cache(maxsize=64)
def _gaussian(size: int, width: float) -> Map:
    """``float64[size, size]``: one row of the separable blur a pixel; each row sums to 1."""
    pixel = np.arange(size)
    matrix: Map = np.exp(-0.5 * ((pixel[:, np.newaxis] - pixel) / (width * size)) ** 2)
    matrix[matrix < 1e-9] = 0  # subnormal numbers make the product ten times slower
    matrix /= matrix.sum(axis=1, keepdims=True)
    return matrix
