"""Noise of sensors, quanta and transmission. ``shot_noise`` is Poisson's, an X-ray's own."""

from __future__ import annotations

import numpy as np

from attacks.corruptions.corruption import Corruption, Grid, on_grid


def _gaussian(pixels: Grid, sigma: float, rng: np.random.Generator) -> Grid:
    return on_grid(pixels + rng.normal(scale=255 * sigma, size=pixels.shape))


def _sign(pixels: Grid, amplitude: float, rng: np.random.Generator) -> Grid:
    return on_grid(pixels + amplitude * rng.choice((-1.0, 1.0), size=pixels.shape))


def _speckle(pixels: Grid, sigma: float, rng: np.random.Generator) -> Grid:
    return on_grid(pixels * (1 + rng.normal(scale=sigma, size=pixels.shape)))


def _impulse(pixels: Grid, share: float, rng: np.random.Generator) -> Grid:
    struck = rng.random(pixels.shape) < share
    salt_or_pepper = np.where(rng.random(pixels.shape) < 0.5, 0, 255).astype(np.uint8)
    return np.where(struck, salt_or_pepper, pixels)


def _shot(pixels: Grid, quanta: float, rng: np.random.Generator) -> Grid:
    return on_grid(rng.poisson(pixels / 255 * quanta) / quanta * 255)


KINDS: dict[str, Corruption] = {
    "faint_noise": Corruption(
        _gaussian, tuple(level / 255 for level in (0.5, 1, 1.5, 2, 3)), "σ, share of 255"
    ),
    "sign_noise": Corruption(_sign, (1,), "grey levels"),
    "gaussian_noise": Corruption(_gaussian, (0.04, 0.05, 0.06, 0.07, 0.08), "σ, share of 255"),
    "speckle_noise": Corruption(_speckle, (0.05, 0.07, 0.10, 0.15, 0.20), "σ, share of x"),
    "impulse_noise": Corruption(_impulse, (0.005, 0.010, 0.013, 0.017, 0.020), "share of values"),
    "shot_noise": Corruption(_shot, (300, 200, 150, 100, 80), "quanta at white"),
}
