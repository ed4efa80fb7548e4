"""Noise that belongs to one image: drawn from its own seed, whatever shares its batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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
