"""Where a change of the image moves the loss: gradient maps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Model = Callable[[Tensor], Tensor]
"""Pixels ``[N, H, W, C]`` in grey levels to class logits ``[N, K]``."""

PAPER_UNIT = 127.5
"""Grey levels to one unit of the paper's pixels, which lie in [-1, 1]."""


def loss_gradient(model: Model, pixels: Tensor, labels: Tensor) -> Tensor:
    """``float32[N, H, W, C]``: gradient of each image's own cross-entropy, per grey level.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels.
        labels: ``int64[N]``.
    """
    pixels = pixels.detach().clone().requires_grad_()
    loss = functional.cross_entropy(model(pixels), labels, reduction="sum")
    return torch.autograd.grad(loss, pixels)[0]


def saliency(model: Model, pixels: Tensor, labels: Tensor) -> Tensor:
    """``sum_c |dCE/dx_c|``, ``float32[N, H, W]``, with x in the paper's units (section 3.2 of Ma
    et al. 2021; its maps are drawn from 0 to 0.2)."""
    return loss_gradient(model, pixels, labels).abs().sum(dim=3) * PAPER_UNIT


def spread(maps: Tensor) -> Tensor:
    """``float32[N]``: the smallest share of an image's pixels that holds half of its saliency;
    0.5 where every pixel matters alike. NaN for a map of zeros."""
    ordered = maps.flatten(1).double().sort(dim=1, descending=True).values
    held = ordered.cumsum(1)
    total = held[:, -1:]
    needed = (held < total / 2 * (1 - 1e-9)).sum(dim=1) + 1
    share = needed / ordered.shape[1]
    return torch.where(total[:, 0] > 0, share, torch.nan).float()
