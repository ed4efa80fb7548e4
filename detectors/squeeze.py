"""The squeezed view: a 3 x 3 median as a network of minima and maxima, where it moves little."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

NEAR = 4.0
"""Grey levels up to which the squeezed view takes the median's place for the pixel's."""
FAR = 8.0
"""Grey levels of the median from the pixel at which the pixel stays as it is."""


def squeeze(x: Tensor, gain: Tensor) -> Tensor:
    """Every pixel moved to the median of its neighbourhood, where that is near.

    An attack of some grey levels is undone as by the median itself. What a median would take away
    whole (letters, dead pixels, a detector's dead column, sharp edges) stays, and with it the
    answer: it is no attack's size. A redescending limit, as robust statistics has it (Hampel 1974):
    a clamp would still move every far pixel by as much as it may.

    Args:
        x: ``float32[N, C, H, W]``, the network's input.
        gain: ``float32[1, C, 1, 1]``, what one grey level is there.

    Returns:
        The same shape.
    """
    return x + limited(median3(x) - x, gain)


def limited(move: Tensor, gain: Tensor) -> Tensor:
    """All of a move up to ``NEAR`` grey levels, nothing from ``FAR``, a share of it that falls
    linearly between. ``gain`` broadcasts."""
    share = (FAR - move.abs() / gain) / (FAR - NEAR)
    return move * share.clamp(0.0, 1.0)


def median3(x: Tensor) -> Tensor:
    """Median over every 3 x 3 neighbourhood, edges replicated.

    Each column of three is sorted once and serves the three windows that contain it; the median
    of nine is then the median of (the largest of the lows, the median of the middles, the
    smallest of the highs). 18 element-wise operations; exact, and differentiable almost
    everywhere.

    Args:
        x: ``float32[N, C, H, W]``.

    Returns:
        The same shape.
    """
    x = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    above, here, below = x[:, :, :-2], x[:, :, 1:-1], x[:, :, 2:]
    small, large = above.minimum(here), above.maximum(here)
    rest = large.minimum(below)
    high = large.maximum(below)
    low, middle = small.minimum(rest), small.maximum(rest)

    lows = _left(low).maximum(_centre(low)).maximum(_right(low))
    highs = _left(high).minimum(_centre(high)).minimum(_right(high))
    middles = _median_of_three(_left(middle), _centre(middle), _right(middle))
    return _median_of_three(lows, middles, highs)


def _left(x: Tensor) -> Tensor:
    return x[..., :-2]


def _centre(x: Tensor) -> Tensor:
    return x[..., 1:-1]


def _right(x: Tensor) -> Tensor:
    return x[..., 2:]


def _median_of_three(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return a.minimum(b).maximum(a.maximum(b).minimum(c))


def root_mean_square(change: Tensor) -> Tensor:
    """``float32[N, C, H, W]`` to ``float32[N]``."""
    return change.square().mean(dim=(1, 2, 3)).sqrt()
