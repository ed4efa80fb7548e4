"""The squeezed view: a 3 x 3 median as a network of minima and maxima, of bounded reach."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

REACH = 10.0
"""Grey levels by which the squeezed view differs from the image, at most."""


def squeeze(x: Tensor, gain: Tensor) -> Tensor:
    """Every pixel moved towards the median of its neighbourhood, by ``REACH`` grey levels at most.

    An attack of some grey levels is undone as by the median itself. What a median would take away
    whole (letters, dead pixels, a detector's dead column) stays, and with it the answer: it is no
    attack's size.

    Args:
        x: ``float32[N, C, H, W]``, the network's input.
        gain: ``float32[1, C, 1, 1]``, what one grey level is there.

    Returns:
        The same shape.
    """
    reach = REACH * gain
    return x + torch.maximum(torch.minimum(median3(x) - x, reach), -reach)


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
