"""Linear maps of images that treat rows and columns apart: resizing, blurring, low-pass filters."""

from __future__ import annotations

import torch
from torch import Tensor


def separable(rows: Tensor, columns: Tensor, images: Tensor) -> Tensor:
    """``R x C^T`` of every channel; differentiable in ``images``.

    Args:
        rows: R, ``float64[H', H]``, or ``[N, H', H]`` with one for each image.
        columns: C, ``float64[W', W]`` or ``[N, W', W]``.
        images: ``float32[N, H, W, C]``.

    Returns ``float32[N, H', W', C]``. The sums are taken in double precision: the sign of a
    gradient must not depend on how a batch's size orders them.
    """
    planes = images.permute(0, 3, 1, 2).double()
    if rows.ndim == 3:
        rows, columns = rows[:, None], columns[:, None]
    mapped = rows @ planes @ columns.transpose(-1, -2)
    return mapped.permute(0, 2, 3, 1).to(images.dtype).contiguous()


def toeplitz(kernel: Tensor, side: int) -> Tensor:
    """``float64[side, side]``: convolution with a symmetric ``kernel`` of odd length, zeros beyond
    the edge."""
    reach = len(kernel) // 2
    place = torch.arange(side)
    distance = (place[:, None] - place[None]).abs()
    taps = kernel.double()[reach:]
    return torch.where(distance <= reach, taps[distance.clamp(max=reach)], 0.0)
