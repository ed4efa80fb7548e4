"""What lies on the picture: detector faults, grids, collimators, labels, stains and bubbles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import ImageDraw, ImageFont

from attacks.corruptions.corruption import Corruption, Grid, from_pillow, on_grid, to_pillow

_LABELS = ("R", "L", "AP", "PA", "PORTABLE", "ERECT", "SUPINE", "LAT", "10:42", "#3", "SITTING")
Plane = npt.NDArray[np.float64]
"""``float64[H, W]``"""


def _dead_pixels(pixels: Grid, share: float, rng: np.random.Generator) -> Grid:
    """Stuck at black or white in all channels at once."""
    shape = (*pixels.shape[:2], 1)
    dead = rng.random(shape) < share
    return np.where(dead, np.where(rng.random(shape) < 0.5, 0, 255).astype(np.uint8), pixels)


def _dead_columns(pixels: Grid, count: float, rng: np.random.Generator) -> Grid:
    result = pixels.copy()
    result[:, rng.permutation(pixels.shape[1])[: int(count)]] = 0
    return result


def _grid_lines(pixels: Grid, amplitude: float, rng: np.random.Generator) -> Grid:
    """The lamellae of an anti-scatter grid: stripes 2.5 to 6 pixels apart, across or along."""
    period, phase = rng.uniform(2.5, 6), rng.uniform(0, 2 * np.pi)
    axis = int(rng.integers(2))
    stripes = np.sin(2 * np.pi * np.arange(pixels.shape[axis]) / period + phase)
    shape = [1, 1, 1]
    shape[axis] = -1
    return on_grid(pixels * (1 + amplitude * stripes.reshape(shape)))


def _collimation(pixels: Grid, share: float, rng: np.random.Generator) -> Grid:
    """Black borders, each up to ``share`` of the side and at least half of that."""
    result = pixels.copy()
    height, width = pixels.shape[:2]
    top, bottom, left, right = np.ceil(
        rng.uniform(0.5, 1, 4) * share * np.array([height, height, width, width])
    ).astype(int)
    result[:top] = result[height - bottom :] = 0
    result[:, :left] = result[:, width - right :] = 0
    return result


def _black_corner(pixels: Grid, radius: float, _: np.random.Generator) -> Grid:
    """Black outside a circle, as through a dermatoscope or a fundus camera."""
    height, width = pixels.shape[:2]
    distance = _distance(pixels.shape, (height - 1) / 2, (width - 1) / 2)
    outside = distance > radius * min(height, width) / 2
    return np.where(outside[..., None], np.uint8(0), pixels)


def _burned_in_text(pixels: Grid, words: float, rng: np.random.Generator) -> Grid:
    """White labels as high as a fifteenth of the shorter side, at least 6 pixels."""
    height, width = pixels.shape[:2]
    font = ImageFont.load_default(max(6, min(height, width) / 15))
    image = to_pillow(pixels)
    draw = ImageDraw.Draw(image)
    for _ in range(int(words)):
        label = str(rng.choice(_LABELS))
        _, _, right, bottom = draw.textbbox((0, 0), label, font)
        at = rng.random(2) * (max(0, width - right), max(0, height - bottom))
        draw.text((at[0], at[1]), label, 255 if pixels.shape[2] == 1 else (255, 255, 255), font)
    return from_pillow(image)


def _stain_deposit(pixels: Grid, spots: float, rng: np.random.Generator) -> Grid:
    """Dark spots of irregular outline, 2 to 5 % of the shorter side in radius."""
    height, width = pixels.shape[:2]
    result = pixels.astype(np.float64)
    for _ in range(int(spots)):
        row, column = rng.random(2) * (height, width)
        radius = rng.uniform(0.02, 0.05) * min(height, width)
        # no lobe below reaches twice the radius
        top, left = (max(0, int(at - 2 * radius) - 1) for at in (row, column))
        bottom, right = (int(at + 2 * radius) + 2 for at in (row, column))
        spot = result[top:bottom, left:right]
        row, column = row - top, column - left
        rows, columns = np.ogrid[: spot.shape[0], : spot.shape[1]]
        angle = np.arctan2(rows - row, columns - column)
        outline = np.full_like(angle, radius)
        for lobes in (2, 3, 5):
            outline *= 1 + 0.15 * np.sin(lobes * angle + rng.uniform(0, 2 * np.pi))
        spot *= 1 - 0.8 * _inside(_distance(spot.shape, row, column), outline)[..., None]
    return on_grid(result)


def _bubble(pixels: Grid, largest: float, rng: np.random.Generator) -> Grid:
    """Ten bright discs with brighter rims, their radius at least half the largest."""
    height, width = pixels.shape[:2]
    darkness = np.ones((height, width))
    for _ in range(10):
        row, column = rng.random(2) * (height, width)
        radius = rng.uniform(0.5, 1) * largest * min(height, width)
        distance = _distance(pixels.shape, row, column)
        # MedMNIST-C's opacities; its rim is 2 pixels of a radius of 3 to 17
        rim = _inside(distance, radius * 1.2) * (130 / 255)
        darkness *= 1 - np.where(distance < radius, 100 / 255, rim)
    return on_grid(255 - (255.0 - pixels) * darkness[..., None])


def _distance(shape: tuple[int, ...], row: float, column: float) -> Plane:
    """Of every pixel from a point."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    distance: Plane = np.hypot(rows - row, columns - column)
    return distance


def _inside(distance: Plane, radius: float | Plane) -> Plane:
    """1 inside, 0 outside, and a slope of one pixel between."""
    return np.clip(radius - distance + 0.5, 0, 1)


KINDS: dict[str, Corruption] = {
    "dead_pixels": Corruption(_dead_pixels, (0.0005, 0.001, 0.002, 0.005, 0.010), "share"),
    "dead_columns": Corruption(_dead_columns, (1, 2, 3, 4, 5), "columns"),
    "grid_lines": Corruption(_grid_lines, (0.005, 0.01, 0.02, 0.03, 0.05), "share of x"),
    "collimation": Corruption(_collimation, (0.02, 0.04, 0.06, 0.08, 0.12), "share of the side"),
    # DermaMNIST's, in order
    "black_corner": Corruption(_black_corner, (1.10, 1.05, 1.00, 0.95, 0.90), "radius"),
    "burned_in_text": Corruption(_burned_in_text, (1, 2, 3, 4, 6), "labels"),
    "stain_deposit": Corruption(_stain_deposit, (1, 2, 3, 4, 5), "spots"),
    # PathMNIST's radii at 224 pixels
    "bubble": Corruption(
        _bubble, tuple(radius / 224 for radius in (7, 10, 12, 15, 17)), "share of the side"
    ),
}
