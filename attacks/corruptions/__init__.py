"""Benign shifts: what happens to honest images, and must not raise the adversarial alarm.

Kinds and levels follow MedMNIST-C (Di Salvo et al. 2024, arXiv 2406.17536): the PneumoniaMNIST
registry where it has the kind, else the set that is named. It starts at ten times the size of a
1/255 attack, so fainter noise and milder compression are added, and what it lacks: rotation,
translation, resampling, windows, vendors' look-up tables, 12-bit originals, chains of JPEG,
JPEG 2000, edge enhancement and detector faults. Results are rounded to 8 bits, not truncated as
there. One file a kind: ``noise``, ``blur``, ``intensity``, ``geometry``, ``compression`` and
``artefacts``.

A second site's images are data, not a corruption: give their folder to ``lazaret evaluate``.
"""

from __future__ import annotations

import numpy as np

from attacks.corruptions import artefacts, blur, compression, geometry, intensity, noise
from attacks.corruptions.corruption import Corruption, Grid

__all__ = ["CORRUPTIONS", "Corruption", "corrupt"]

CORRUPTIONS: dict[str, Corruption] = {
    **noise.KINDS,
    **blur.KINDS,
    **compression.KINDS,
    **intensity.KINDS,
    **geometry.KINDS,
    **artefacts.KINDS,
}
"""Every corruption by name."""


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
