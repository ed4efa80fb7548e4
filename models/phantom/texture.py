"""Blurs, band-limited noise and point clouds on the unit grid, by FFT."""

from __future__ import annotations

from functools import lru_cache
from math import ceil

import numpy as np
import numpy.typing as npt

Map = npt.NDArray[np.float64]


def blur(image: Map, width: float) -> Map:
    """Gaussian blur, its standard deviation in units of the image's side; borders repeat."""
    size = image.shape[0]
    margin = 8 * ceil(2.5 * width * size / 8)
    padded = np.pad(image, margin, mode="edge")
    spectrum = np.fft.rfft2(padded) * _gaussian(len(padded), width * size)
    blurred: Map = np.fft.irfft2(spectrum)[margin : margin + size, margin : margin + size]
    return blurred


def noise(rng: np.random.Generator, size: int, coarse: float) -> Map:
    """Gaussian noise of mean 0 and deviation 1, blurred by ``coarse`` image sides; periodic."""
    half = size // 2 + 1
    spectrum = rng.standard_normal((size, half)) + 1j * rng.standard_normal((size, half))
    field = np.fft.irfft2(spectrum * _gaussian(size, coarse * size), s=(size, size))
    field -= float(field.mean())
    normal: Map = field / (float(field.std()) + 1e-12)
    return normal


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
def _gaussian(size: int, sigma: float) -> Map:
    """``float64[size, size // 2 + 1]``: the blur's transfer function, sigma in pixels."""
    decay = -2 * (np.pi * sigma) ** 2
    down, across = np.fft.fftfreq(size), np.fft.rfftfreq(size)
    transfer: Map = np.exp(decay * (down[:, np.newaxis] ** 2 + across**2))
    transfer[transfer < 1e-9] = 0  # subnormal numbers would slow the products down
    return transfer
