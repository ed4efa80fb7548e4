"""What two guards cost, measured side by side."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt

from detectors.evaluation import Estimate
from models.onnx_engine import OnnxEngine

ROUNDS = 40
DRAWS = 1000


@dataclass(frozen=True, slots=True)
class Cost:
    """What the old and the new graph cost."""

    old_bytes: int
    new_bytes: int
    old_ms: float
    """Median milliseconds of one image."""
    new_ms: float
    ratio: Estimate
    """New over old: the median over rounds in which each runs once, and its interval."""


def cost(old: bytes, new: bytes, image: npt.NDArray[np.uint8], rounds: int = ROUNDS) -> Cost:
    """Of two ONNX graphs.

    Rounds begin with the one and the other in turn, so that a busy machine slows both alike.

    Args:
        image: ``uint8[H, W, C]``.
    """
    batch = image[None]
    engines = [OnnxEngine(graph) for graph in (old, new)]
    for engine in (*engines, *engines):  # warm
        engine.run(batch)
    seconds = np.empty((rounds, 2))
    for i in range(rounds):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            started = perf_counter()
            engines[which].run(batch)
            seconds[i, which] = perf_counter() - started
    medians = 1000 * np.median(seconds, axis=0)
    return Cost(
        len(old),
        len(new),
        float(medians[0]),
        float(medians[1]),
        median_interval(seconds[:, 1] / seconds[:, 0]),
    )


def median_interval(values: npt.NDArray[np.float64], seed: int = 0) -> Estimate:
    """The median, with a 95 % bootstrap interval."""
    rng = np.random.default_rng(seed)
    draws = np.median(rng.choice(values, (DRAWS, len(values))), axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(np.median(values)), float(low), float(high))
