"""What a number is expected to be on benign images, and how far they keep from that, as lines in
what is known of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import least_squares, linprog
from torch import Tensor

Vector = npt.NDArray[np.float64]

WITHIN, DEVIATIONS = 0.98, 2.326
"""The share of benign images that the spread reaches at so many of it: those of a Gaussian."""

FEWEST = 30  # images of a predicted class below which the line of all classes serves it


def benign_lines(
    known: Tensor,
    actual: Tensor,
    predicted: Tensor,
    classes: int,
    start: Sequence[float],
    lowest: Sequence[float],
) -> dict[str, Tensor]:
    """``expected`` and ``spread``, ``float32[K, P]`` each: coefficients by predicted class.

    Args:
        known: ``float32[N, P]``, the first column one.
        actual: ``float32[N]``.
        predicted: ``int64[N]``.
        start: of the search for the expected line.
        lowest: that its coefficients may be.
    """
    u, y, c = (tensor.double().cpu().numpy() for tensor in (known, actual, predicted))
    pooled = _fit_line(u, y, start, lowest)
    lines = [
        _fit_line(u[c == k], y[c == k], start, lowest) if (c == k).sum() >= FEWEST else pooled
        for k in range(classes)
    ]
    expected, spread = (known.new_tensor(np.stack(part)) for part in zip(*lines, strict=True))
    return {"expected": expected, "spread": spread}


def deviation(
    known: Tensor, actual: Tensor, predicted: Tensor, expected: Tensor, spread: Tensor
) -> Tensor:
    """``float32[N]``: how far above its line a number lies, in units of the spread there."""
    line = (expected.index_select(0, predicted) * known).sum(dim=1)
    return (actual - line) / (spread.index_select(0, predicted) * known).sum(dim=1)


def _fit_line(
    u: Vector, actual: Vector, start: Sequence[float], lowest: Sequence[float]
) -> tuple[Vector, Vector]:
    """``float64[P]`` each: coefficients of the expected value and of its spread (none is negative),
    on ``u: float64[N, P]``.

    Huber regression, so that a few benign images (whose answer does flip, say) bend nothing; they
    do count in the spread, a quantile regression (Koenker and Bassett 1978).
    """
    typical = max(float(np.median(np.abs(actual - np.median(actual)))), 1e-3)
    expected = least_squares(
        lambda p: u @ p - actual,
        x0=start,
        bounds=(lowest, np.inf),
        loss="huber",
        f_scale=0.5 * typical,
    ).x
    spread = _quantile(u, np.abs(u @ expected - actual), WITHIN) / DEVIATIONS
    spread[0] = max(spread[0], 0.05 * typical)
    return expected, spread


def _quantile(u: Vector, y: Vector, share: float) -> Vector:
    """``b >= 0`` with ``u . b`` above that share of ``y``: the linear programme of least
    ``sum(share * over + (1 - share) * under)`` with ``u . b + over - under = y``."""
    n, width = u.shape
    cost = np.r_[np.zeros(width), np.full(n, share), np.full(n, 1 - share)] / n
    equal = sparse.hstack([sparse.csr_matrix(u), sparse.eye(n), -sparse.eye(n)]).tocsr()
    found = linprog(cost, A_eq=equal, b_eq=y, method="highs").x
    return np.asarray(found[:width])
