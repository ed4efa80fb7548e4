"""Noise that belongs to one image: drawn from its own seed, whatever shares its batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import ceil

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Noise:
    """One generator an image. A draw advances only the generators of the images it is for."""

    def __init__(self, seeds: Sequence[int], stream: int) -> None:
        self._generators = [np.random.default_rng((seed, stream)) for seed in seeds]

    def normal(self, rows: Tensor, like: Tensor) -> Tensor:
        """``float32[M, H, W, C]``: standard normal, for the images at ``rows``, ``int64[M]``;
        shape and device are those of ``like[0]``."""
        draws = [
            self._generators[row].standard_normal(like.shape[1:], dtype=np.float32)
            for row in rows.tolist()
        ]
        return torch.from_numpy(np.stack(draws)).to(like)

    def uniform(self, rows: Tensor, like: Tensor) -> Tensor:
        """``float32[M, H, W, C]``: uniform in [0, 1), as ``normal`` otherwise."""
        draws = [
            self._generators[row].random(like.shape[1:], dtype=np.float32) for row in rows.tolist()
        ]
        return torch.from_numpy(np.stack(draws)).to(like)

    def smooth(self, rows: Tensor, like: Tensor, frequencies: float) -> Tensor:
        """``float32[M, H, W, C]``: normal in the lowest ``frequencies`` (a share, in each axis) of
        the cosine transform and nothing above, of unit L2 norm; as ``normal`` otherwise."""
        height, width, channels = like.shape[1:]
        down, across = _waves(height, frequencies), _waves(width, frequencies)
        shape = (down.shape[1], across.shape[1], channels)
        draws = []
        for row in rows.tolist():
            amplitudes = self._generators[row].standard_normal(shape, dtype=np.float32)
            draw = np.einsum("hf,fgc,wg->hwc", down, amplitudes, across, optimize=True)
            draws.append(draw / np.linalg.norm(draw))
        return torch.from_numpy(np.stack(draws)).to(like)


@cache
def _waves(side: int, frequencies: float) -> npt.NDArray[np.float32]:
    """``float32[side, F]``: the lowest of the orthonormal DCT-II."""
    kept = np.arange(ceil(frequencies * side))
    waves = np.cos(np.pi * (2 * np.arange(side)[:, None] + 1) * kept / (2 * side))
    scaled: npt.NDArray[np.float32] = (waves / np.linalg.norm(waves, axis=0)).astype(np.float32)
    return scaled
