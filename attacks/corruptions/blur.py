"""Blur of the optics, of a patient who moved and of a camera that zoomed; and its opposite, what a
vendor's edge enhancement leaves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage, signal

from attacks.corruptions.corruption import Corruption, Grid, from_pillow, on_grid, to_pillow

_ZOOMS = 11
"""Exposures that one zoom blur averages."""


def _gaussian(pixels: Grid, side: float, _: np.random.Generator) -> Grid:
    # the σ that OpenCV and torchvision take for a kernel of that side
    sigma = 0.3 * ((side - 1) / 2 - 1) + 0.8
    radius = int(side) // 2
    floats = pixels.astype(np.float64)
    return on_grid(
        ndimage.gaussian_filter(floats, sigma, radius=radius, mode="mirror", axes=(0, 1))
    )


def _defocus(pixels: Grid, radius: float, _: np.random.Generator) -> Grid:
    reach = int(np.ceil(radius))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    # a disk whose edge pixels weigh what the disk covers of them
    return _convolve(pixels, np.clip(radius + 0.5 - np.hypot(rows, columns), 0, 1))


def _motion(pixels: Grid, length: float, rng: np.random.Generator) -> Grid:
    """A uniform streak, as steady motion leaves; its direction is within 45° of a row."""
    angle = rng.uniform(-np.pi / 4, np.pi / 4)
    reach = int(np.ceil(length / 2))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    along = np.linspace(-(length - 1) / 2, (length - 1) / 2, 8 * int(length))
    _splat(kernel, reach + along * np.sin(angle), reach + along * np.cos(angle))
    return _convolve(pixels, kernel)


def _sharpen(pixels: Grid, amount: float, _: np.random.Generator) -> Grid:
    """Unsharp masking, the first step of radiography's edge enhancement: what a Gaussian of one
    pixel takes away is added."""
    floats = pixels.astype(np.float64)
    blurred = ndimage.gaussian_filter(floats, 1.0, mode="mirror", axes=(0, 1))
    return on_grid(floats + amount * (floats - blurred))


def _splat(
    kernel: npt.NDArray[np.float64],
    rows: npt.NDArray[np.float64],
    columns: npt.NDArray[np.float64],
) -> None:
    """Share each point among the four cells around it, by distance."""
    top, left = np.floor(rows).astype(np.intp), np.floor(columns).astype(np.intp)
    down, right = rows - top, columns - left
    for row, row_share in ((top, 1 - down), (top + 1, down)):
        for column, column_share in ((left, 1 - right), (left + 1, right)):
            inside = (row < len(kernel)) & (column < len(kernel))
            share = (row_share * column_share)[inside]
            np.add.at(kernel, (row[inside], column[inside]), share)


def _zoom(pixels: Grid, factor: float, _: np.random.Generator) -> Grid:
    height, width = pixels.shape[:2]
    image = to_pillow(pixels)
    total = pixels.astype(np.float64)
    for zoom in np.linspace(1, factor, _ZOOMS)[1:]:
        top, left = (side * (1 - 1 / zoom) / 2 for side in (height, width))
        box = (left, top, width - left, height - top)
        total += from_pillow(image.resize((width, height), Image.Resampling.BILINEAR, box))
    return on_grid(total / _ZOOMS)


def _convolve(pixels: Grid, kernel: npt.NDArray[np.float64]) -> Grid:
    reach = len(kernel) // 2
    padded = np.pad(
        pixels.astype(np.float64), ((reach, reach), (reach, reach), (0, 0)), mode="symmetric"
    )
    weights = (kernel / kernel.sum())[..., None]
    return on_grid(signal.fftconvolve(padded, weights, mode="valid", axes=(0, 1)))


KINDS: dict[str, Corruption] = {
    "gaussian_blur": Corruption(_gaussian, (3, 5, 7, 9, 11), "kernel side in pixels"),
    # BloodMNIST's radii, the mildest; RetinaMNIST starts at 4
    "defocus_blur": Corruption(_defocus, (2, 3, 4, 5, 6), "disk radius in pixels"),
    "motion_blur": Corruption(_motion, (3, 5, 8, 11, 15), "streak in pixels"),
    # DermaMNIST's
    "zoom_blur": Corruption(_zoom, (1.10, 1.15, 1.20, 1.25, 1.30), "largest zoom"),
    # not MedMNIST-C's
    "sharpen": Corruption(_sharpen, (0.5, 1, 2, 3, 4), "share of the detail added"),
}
