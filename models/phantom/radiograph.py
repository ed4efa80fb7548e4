"""From a chest to a radiograph: attenuation, scatter, quanta, logarithm, display."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from models.phantom.anatomy import Chest, Map, Pose, chest
from models.phantom.texture import blur, noise

_SOFT, _BONE, _LUNG = 0.17, 0.42, 0.045  # effective attenuation at chest energies, 1/cm
_QUANTA: Final = 60_000.0  # a pixel without a patient, at 128 pixels a side


def radiograph(
    patient: int, image: int, *, opacities: bool, size: int = 128
) -> npt.NDArray[np.uint8]:
    """One phantom radiograph, ``uint8[size, size, 1]``, dense tissue bright.

    The same arguments always give the same pixels, and ``opacities`` changes nothing else: pose,
    exposure and the noise's seed stay.

    Args:
        patient: 0 or more; the anatomy.
        image: 0 or more; which of the patient's images.
        opacities: add one to four consolidations to the lungs.
        size: pixels a side, 32 or more.
    """
    if size < 32:
        raise ValueError(f"a phantom needs 32 pixels a side or more, not {size}")
    rng = np.random.default_rng((2, patient, image))
    pose = Pose(
        shift=(rng.normal(0, 0.02), rng.normal(0, 0.025)),
        scale=rng.normal(1, 0.025),
        tilt=rng.normal(0, 0.02),
        breath=rng.normal(0, 0.03),
    )
    body = chest(patient, pose, size)
    path = _SOFT * (body.soft + body.vessels) + _LUNG * body.lung + _BONE * body.bone
    if opacities:
        path += _SOFT * _consolidations(body, np.random.default_rng((3, patient, image)))
    return _expose(path, rng, np.random.default_rng((4, patient, image)))


def _consolidations(body: Chest, rng: np.random.Generator) -> Map:
    """Centimetres of water where there was air. Airways inside stay open (air bronchograms)."""
    size = body.lung.shape[0]
    axis = (np.arange(size) + 0.5) * (2 / size) - 1
    likely = np.clip(body.lung - 4, 0, None).ravel()
    places = rng.choice(likely.size, rng.integers(1, 5), p=likely / likely.sum())
    warp = noise(rng, size, 0.05), noise(rng, size, 0.05)
    total = np.zeros((size, size))
    for place in places:
        row, column = divmod(int(place), size)
        u = axis[np.newaxis, :] - axis[column] + 0.05 * warp[0]
        v = axis[:, np.newaxis] - axis[row] + 0.05 * warp[1]
        turn, radius = rng.uniform(0, np.pi), rng.uniform(0.14, 0.28)
        flat = rng.uniform(0.6, 1.0)
        along = np.cos(turn) * u + np.sin(turn) * v
        across = (np.cos(turn) * v - np.sin(turn) * u) / flat
        share = np.exp(-(((along**2 + across**2) / radius**2) ** 1.3))
        total = np.maximum(total, np.exp(rng.uniform(np.log(0.40), np.log(0.90))) * share)
    patchy = np.clip(1 + 0.30 * noise(rng, size, 0.02), 0.2, 1.8) * (1 - 0.45 * body.bronchi)
    return body.lung * np.clip(total * patchy, 0, 0.9)


def _expose(
    path: Map, rng: np.random.Generator, quanta: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Beer-Lambert, scatter, Poisson counts, logarithm, and an automatic window."""
    size = path.shape[0]
    primary = blur(np.exp(-path), 0.5 / 128)
    ratio = rng.uniform(0.25, 0.5)  # scatter to primary behind a grid
    fluence = (primary + ratio * blur(primary, 0.10)) / (1 + ratio)
    dose = _QUANTA * np.exp(rng.normal(0, 0.25)) * (128 / size) ** 2
    counts = np.maximum(quanta.poisson(dose * fluence), 1)
    optical = -np.log(counts / dose)
    # Every vendor shows local contrast more than global contrast.
    optical += rng.uniform(0.7, 1.3) * (optical - blur(optical, 0.06))
    low, high = np.quantile(
        optical[size // 8 : -size // 16, size // 10 : -size // 10], (0.01, 0.99)
    )
    low += rng.normal(0.02, 0.03) * (high - low)
    high += rng.normal(0.04, 0.04) * (high - low)
    shown = np.clip((optical - low) / (high - low), 0, 1) ** np.exp(rng.normal(-0.05, 0.08))
    pixels: npt.NDArray[np.uint8] = np.floor(255 * shown + 0.5).astype(np.uint8)[..., np.newaxis]
    return pixels
