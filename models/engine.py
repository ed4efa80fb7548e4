"""Engines run one fused graph on a batch of decoded images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Batch = npt.NDArray[np.uint8]
"""``uint8[N, H, W, C]``, C is 1 (gray) or 3 (RGB); one size per batch."""

Floats = npt.NDArray[np.float32]


class EngineProblem(Exception):
    """A graph that cannot be loaded or run. The message is a sentence: what and what to do."""


@dataclass(frozen=True, slots=True)
class Readings:
    """What one forward pass says about N images. All arrays are float32."""

    logits: Floats
    """``[N, L]``, the head's raw outputs."""
    probabilities: Floats
    """``[N, K]`` in ``[0, 1]``, one per class."""
    scores: Floats
    """``[N, D]``, one per detector in the manifest's order; higher is more suspicious."""
    fused: Floats
    """``[N]``, the score that the adversarial route judges."""
    quality: Floats
    """``[N]``, the score that the quality route judges (out of distribution or degraded)."""

    def __len__(self) -> int:
        return len(self.logits)


class Engine(Protocol):
    """A loaded graph. ``run`` is thread-safe and blocks; callers keep it off the event loop."""

    def run(self, images: Batch) -> Readings:
        """Run one batch, ``uint8[N, H, W, C]``. A bare model's detector arrays are empty (D = 0,
        ``fused`` and ``quality`` NaN)."""
        ...

    def warm_up(self) -> None:
        """Run a real batch so that the first request pays for no allocation or compilation."""
        ...
