"""Grey levels and colours: exposure, windows, vendors' look-up tables, fewer bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attacks.corruptions.corruption import Corruption, Grid, on_grid
from models.imaging.decode import DICOM, decode
from models.imaging.encode import dicom
from models.imaging.image import ImageProblem, Limits

_ANY_SIDE = Limits(smallest_side=1)


def _brightness(pixels: Grid, factor: float, _: np.random.Generator) -> Grid:
    return on_grid(pixels * factor)


def _contrast(pixels: Grid, factor: float, _: np.random.Generator) -> Grid:
    mean = pixels.mean()
    return on_grid(mean + (pixels - mean) * factor)


def _gamma(pixels: Grid, gamma: float, _: np.random.Generator) -> Grid:
    return on_grid(255 * (pixels / 255) ** gamma)


def _saturate(pixels: Grid, more: float, _: np.random.Generator) -> Grid:
    """Add to the saturation of HSV at the same hue and value; a gray pixel has no hue to add."""
    floats = pixels.astype(np.float64)
    value = floats.max(axis=2, keepdims=True)
    chroma = value - floats.min(axis=2, keepdims=True)
    wanted = np.minimum(chroma + more * value, value)
    growth = np.divide(wanted, chroma, out=np.ones_like(chroma), where=chroma > 0)
    return on_grid(value - (value - floats) * growth)


def _window_level(pixels: Grid, share: float, rng: np.random.Generator) -> Grid:
    """A reader's window that is narrower by a share and clips the dark end or the bright one."""
    width = 255 * (1 - share)
    low = rng.choice((0.0, 255 - width))
    return on_grid((pixels - low) / width * 255)


def _sigmoid_table(pixels: Grid, steepness: float, _: np.random.Generator) -> Grid:
    x = np.linspace(-0.5, 0.5, 256)
    return _looked_up(pixels, np.tanh(steepness / 2 * x) / np.tanh(steepness / 4) / 2 + 0.5)


def _log_table(pixels: Grid, strength: float, _: np.random.Generator) -> Grid:
    x = np.linspace(0, 1, 256)
    return _looked_up(pixels, np.log1p(strength * x) / np.log1p(strength))


def _looked_up(pixels: Grid, shown: npt.NDArray[np.float64]) -> Grid:
    table = on_grid(255 * shown)
    looked_up: Grid = table[pixels]
    return looked_up


def _twelve_to_eight_bit(pixels: Grid, share: float, rng: np.random.Generator) -> Grid:
    """From a 12-bit original of this image, through a DICOM file whose window is narrower by a
    share at both ends. The original is one that the full window would have shown as these pixels;
    each colour channel is a frame of its own."""
    within = rng.uniform(-0.5, 0.5, pixels.shape)
    original = np.clip(np.rint((pixels + within) * (4095 / 255)), 0, 4095).astype(np.uint16)
    window = (2048.0, round(4096 * (1 - share), 1))
    channels = []
    for channel in range(pixels.shape[2]):
        file = dicom(original[..., channel : channel + 1], bits_stored=12, window=window)
        try:
            channels.append(decode(file, DICOM, _ANY_SIDE).pixels)
        except ImageProblem:  # the window blanks it, and the service takes no blank image
            channels.append(pixels[..., channel : channel + 1])
    return np.concatenate(channels, axis=2)


KINDS: dict[str, Corruption] = {
    "brightness_up": Corruption(_brightness, (1.1, 1.2, 1.3, 1.4, 1.5), "factor"),
    "brightness_down": Corruption(_brightness, (0.9, 0.8, 0.7, 0.6, 0.5), "factor"),
    "contrast_up": Corruption(_contrast, (1.1, 1.2, 1.3, 1.4, 1.6), "factor"),
    "contrast_down": Corruption(_contrast, (0.9, 0.8, 0.7, 0.6, 0.4), "factor"),
    "gamma_up": Corruption(_gamma, (1.1, 1.2, 1.3, 1.4, 1.6), "exponent"),
    "gamma_down": Corruption(_gamma, (0.9, 0.8, 0.7, 0.6, 0.4), "exponent"),
    # PathMNIST's
    "saturate": Corruption(_saturate, (0.05, 0.10, 0.15, 0.20, 0.25), "saturation", colour=True),
    "window_level": Corruption(_window_level, (0.02, 0.05, 0.10, 0.15, 0.20), "share of range"),
    "vendor_lut_sigmoid": Corruption(_sigmoid_table, (2, 3, 4, 5, 6), "slope at mid-grey"),
    "vendor_lut_log": Corruption(_log_table, (0.1, 0.25, 0.5, 1, 2), "k in log(1 + k x)"),
    "twelve_to_eight_bit": Corruption(
        _twelve_to_eight_bit, (0.005, 0.01, 0.02, 0.04, 0.08), "share of the window"
    ),
}
