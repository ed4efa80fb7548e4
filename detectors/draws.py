"""Random views of an image, as parameters: what the second stage looks through.

Torch-free: serving draws them. A view is what a small random zoom, shift and blur
make of the image and noise, where that moves a pixel little (``detectors.squeeze``).
The graph of ``detectors.second_graph`` applies them.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SHIFT = 0.5
"""Pixels of the network's input, at most, along each axis."""
ZOOM = 0.004
"""At most, in or out."""
BLUR = (0.6, 1.0)
"""Standard deviation of the Gaussian, in pixels."""
NOISE = 1.0
"""Grey levels, at most: the standard deviation of Gaussian noise."""


@dataclass(frozen=True, slots=True)
class Draws:
    """Parameters of M views of one image, C x h x w."""

    rows: Floats
    """``float32[M, h, h]``: every output row's weights of the input's rows."""
    columns: Floats
    """``float32[M, w, w]``: the same of columns."""
    noise: Floats
    """``float32[M, C, h, w]``, in grey levels."""


def draw(rng: np.random.Generator, views: int, channels: int, size: tuple[int, int]) -> Draws:
    """Parameters of ``views`` independent views."""
    height, width = size
    zoom = 1 + rng.uniform(-ZOOM, ZOOM, views)
    blur = rng.uniform(*BLUR, views)
    down, right = rng.uniform(-SHIFT, SHIFT, (2, views))
    level = rng.uniform(0, NOISE, views)
    noise = rng.standard_normal((views, channels, height, width), dtype=np.float32)
    return Draws(
        np.stack([_axis(height, *one) for one in zip(zoom, down, blur, strict=True)]),
        np.stack([_axis(width, *one) for one in zip(zoom, right, blur, strict=True)]),
        noise * level.astype(np.float32)[:, None, None, None],
    )


def generator(key: bytes, pixels: npt.NDArray[np.uint8]) -> np.random.Generator:
    """The generator of one image's draws: of its pixels and a secret alone (HMAC-SHA256), so that
    sending an image again averages nothing out, and whoever has the key can repeat a verdict."""
    shape = ",".join(str(side) for side in pixels.shape).encode()
    content = hashlib.sha256(shape + b":" + np.ascontiguousarray(pixels).tobytes()).digest()
    return np.random.default_rng(
        int.from_bytes(hmac.new(key, content, hashlib.sha256).digest(), "big")
    )


def _axis(size: int, zoom: float, shift: float, blur: float) -> Floats:
    """``float32[size, size]``: row i holds a Gaussian about where output pixel i looks, its edge
    repeated."""
    middle = (size - 1) / 2
    looks = np.clip((np.arange(size) - middle) / zoom + middle + shift, 0, size - 1)
    weights = np.exp(-0.5 * ((np.arange(size)[None] - looks[:, None]) / blur) ** 2)
    axis: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return axis
