"""Engines run one fused graph on a batch of decoded images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

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
    second: Floats | None = None
    """``[N]``, the second stage's score, NaN where it did not run; None where there is none."""

    def __len__(self) -> int:
        return len(self.logits)

    @classmethod
    def of(cls, outputs: Mapping[str, Floats]) -> Self:
        """From a graph's outputs by name. What a bare model lacks is empty or NaN."""
        n = len(outputs["logits"])
        missing = np.full(n, np.nan, np.float32)
        return cls(
            logits=outputs["logits"],
            probabilities=outputs["probabilities"],
            scores=outputs.get("scores", np.empty((n, 0), np.float32)),
            fused=outputs.get("fused", missing),
            quality=outputs.get("quality", missing),
        )


READING = ("logits", "probabilities", "scores", "fused", "quality")
"""The outputs that make ``Readings``; a bare model has the first two."""


def check_batch(images: Batch) -> None:
    """Raises ``ValueError`` for anything but ``uint8[N, H, W, 1 or 3]``."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"a batch is uint8[N, H, W, 1 or 3], not {images.dtype}{list(images.shape)}"
        )


class Engine(Protocol):
    """A loaded graph. ``run`` is thread-safe and blocks; callers keep it off the event loop."""

    def run(self, images: Batch) -> Readings:
        """Run one batch, ``uint8[N, H, W, C]``. A bare model's detector arrays are empty (D = 0,
        ``fused`` and ``quality`` NaN)."""
        ...

    def warm_up(self) -> None:
        """Run a real batch so that the first request pays for no allocation or compilation."""
        ...
