"""Benign shifts: what happens to honest images, and must not raise the adversarial alarm.

Kinds and levels follow MedMNIST-C (Di Salvo et al. 2024, arXiv 2406.17536), the PneumoniaMNIST
registry, where it has them; it starts at ten times the size of a 1/255 attack, so fainter noise
and milder compression are added, and the rotation, shift and resampling that it lacks. Results
are rounded to 8 bits, not truncated as there.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

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

    @property
    def severities(self) -> range:
        """The severities it has, from 1."""
        return range(1, len(self.levels) + 1)


def corrupt(name: str, pixels: Grid, severity: int = 1, seed: int = 0) -> Grid:
    """Apply the named corruption; the same arguments give the same pixels.

    Args:
        pixels: ``uint8[H, W, C]``, C is 1 or 3.
        severity: 1 (mildest) to 5; ``CORRUPTIONS[name].severities`` says which exist.
        seed: a non-negative integer, best one per image.

    Returns ``uint8[H, W, C]``, a new array. Raises ``ValueError`` for an unknown name, a severity
    that it does not have, or other pixels.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"no corruption is called {name!r}; choose from {', '.join(CORRUPTIONS)}")
    corruption = CORRUPTIONS[name]
    if severity not in corruption.severities:
        raise ValueError(f"{name} has severities 1 to {len(corruption.levels)}, not {severity}")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ValueError(f"{pixels.dtype}{list(pixels.shape)} is not uint8[H, W, 1 or 3]")
    level = corruption.levels[severity - 1]
    return corruption.change(pixels, level, np.random.default_rng(seed))


def _grid(values: npt.NDArray[np.floating]) -> Grid:
    grid: Grid = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return grid


def _gaussian_noise(pixels: Grid, sigma: float, rng: np.random.Generator) -> Grid:
    return _grid(pixels + rng.normal(scale=255 * sigma, size=pixels.shape))


def _sign_noise(pixels: Grid, amplitude: float, rng: np.random.Generator) -> Grid:
    return _grid(pixels + amplitude * rng.choice((-1.0, 1.0), size=pixels.shape))


def _speckle_noise(pixels: Grid, sigma: float, rng: np.random.Generator) -> Grid:
    return _grid(pixels * (1 + rng.normal(scale=sigma, size=pixels.shape)))


def _impulse_noise(pixels: Grid, share: float, rng: np.random.Generator) -> Grid:
    struck = rng.random(pixels.shape) < share
    salt_or_pepper = np.where(rng.random(pixels.shape) < 0.5, 0, 255).astype(np.uint8)
    return np.where(struck, salt_or_pepper, pixels)


def _shot_noise(pixels: Grid, quanta: float, rng: np.random.Generator) -> Grid:
    return _grid(rng.poisson(pixels / 255 * quanta) / quanta * 255)


def _gaussian_blur(pixels: Grid, side: float, _: np.random.Generator) -> Grid:
    # the σ that OpenCV and torchvision take for a kernel of that side
    sigma = 0.3 * ((side - 1) / 2 - 1) + 0.8
    radius = int(side) // 2
    floats = pixels.astype(np.float64)
    return _grid(ndimage.gaussian_filter(floats, sigma, radius=radius, mode="mirror", axes=(0, 1)))


def _jpeg(pixels: Grid, quality: float, _: np.random.Generator) -> Grid:
    file = io.BytesIO()
    _to_pillow(pixels).save(file, "JPEG", quality=int(quality))
    return _from_pillow(Image.open(file))


def _brightness(pixels: Grid, factor: float, _: np.random.Generator) -> Grid:
    return _grid(pixels * factor)


def _contrast(pixels: Grid, factor: float, _: np.random.Generator) -> Grid:
    mean = pixels.mean()
    return _grid(mean + (pixels - mean) * factor)


def _gamma(pixels: Grid, gamma: float, _: np.random.Generator) -> Grid:
    return _grid(255 * (pixels / 255) ** gamma)


def _shift(pixels: Grid, distance: float, rng: np.random.Generator) -> Grid:
    steps = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
    down, right = np.multiply(rng.choice(steps), int(distance))
    rows = np.clip(np.arange(pixels.shape[0]) - down, 0, pixels.shape[0] - 1)
    columns = np.clip(np.arange(pixels.shape[1]) - right, 0, pixels.shape[1] - 1)
    moved: Grid = pixels[np.ix_(rows, columns)]
    return moved


def _rotation(pixels: Grid, degrees: float, rng: np.random.Generator) -> Grid:
    angle = degrees * rng.choice((-1.0, 1.0))
    floats = pixels.astype(np.float64)
    return _grid(ndimage.rotate(floats, angle, reshape=False, order=1, mode="nearest"))


def _pixelate(pixels: Grid, factor: float, _: np.random.Generator) -> Grid:
    return _through_smaller(pixels, factor, Image.Resampling.BOX, Image.Resampling.NEAREST)


def _resample(pixels: Grid, factor: float, _: np.random.Generator) -> Grid:
    return _through_smaller(pixels, factor, Image.Resampling.BICUBIC, Image.Resampling.BICUBIC)


def _through_smaller(
    pixels: Grid, factor: float, down: Image.Resampling, up: Image.Resampling
) -> Grid:
    height, width = pixels.shape[:2]
    small = max(1, round(width * factor)), max(1, round(height * factor))
    image = _to_pillow(pixels).resize(small, down).resize((width, height), up)
    return _from_pillow(image)


def _to_pillow(pixels: Grid) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _from_pillow(image: Image.Image) -> Grid:
    pixels = np.array(image, dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


CORRUPTIONS: dict[str, Corruption] = {
    "faint_noise": Corruption(
        _gaussian_noise, tuple(level / 255 for level in (0.5, 1, 1.5, 2, 3)), "σ, share of 255"
    ),
    "sign_noise": Corruption(_sign_noise, (1,), "grey levels"),
    "gaussian_noise": Corruption(
        _gaussian_noise, (0.04, 0.05, 0.06, 0.07, 0.08), "σ, share of 255"
    ),
    "speckle_noise": Corruption(_speckle_noise, (0.05, 0.07, 0.10, 0.15, 0.20), "σ, share of x"),
    "impulse_noise": Corruption(
        _impulse_noise, (0.005, 0.010, 0.013, 0.017, 0.020), "share of values"
    ),
    "shot_noise": Corruption(_shot_noise, (300, 200, 150, 100, 80), "quanta at white"),
    "gaussian_blur": Corruption(_gaussian_blur, (3, 5, 7, 9, 11), "kernel side in pixels"),
    "jpeg": Corruption(_jpeg, (90, 80, 70, 50, 30), "quality"),
    "brightness_up": Corruption(_brightness, (1.1, 1.2, 1.3, 1.4, 1.5), "factor"),
    "brightness_down": Corruption(_brightness, (0.9, 0.8, 0.7, 0.6, 0.5), "factor"),
    "contrast_up": Corruption(_contrast, (1.1, 1.2, 1.3, 1.4, 1.6), "factor"),
    "contrast_down": Corruption(_contrast, (0.9, 0.8, 0.7, 0.6, 0.4), "factor"),
    "gamma_up": Corruption(_gamma, (1.1, 1.2, 1.3, 1.4, 1.6), "exponent"),
    "gamma_down": Corruption(_gamma, (0.9, 0.8, 0.7, 0.6, 0.4), "exponent"),
    "shift": Corruption(_shift, (1, 2, 3, 4, 5), "pixels"),
    "rotation": Corruption(_rotation, (1, 2, 3, 5, 10), "degrees"),
    "resample": Corruption(_resample, (0.95, 0.9, 0.8, 0.7, 0.6), "scale"),
    "pixelate": Corruption(_pixelate, (0.8, 0.7, 0.6, 0.5, 0.4), "scale"),
}
"""Every corruption by name."""
