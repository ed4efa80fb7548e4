"""How the loss rises around an image, along two sign gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from detectors.reproduction.saliency import Model, loss_gradient

EPSILONS = tuple(0.5 * i for i in range(16))
"""Grey levels on either axis: 0 to 7.5 in steps of 0.5 (Ma et al. 2021, released code)."""


def loss_landscape(
    model: Model,
    second: Model,
    pixels: Tensor,
    labels: Tensor,
    epsilons: Sequence[float] = EPSILONS,
) -> Tensor:
    """``CE(model, clip(x + ε_1 sign(∇CE_model) + ε_2 sign(∇CE_second)))``.

    Args:
        second: a model of the same classes, trained independently.
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]``.

    Returns ``float32[N, E, E]``, ε_1 down and ε_2 across.
    """
    own = loss_gradient(model, pixels, labels).sign()
    other = loss_gradient(second, pixels, labels).sign()
    losses = pixels.new_empty(len(pixels), len(epsilons), len(epsilons))
    with torch.no_grad():
        for i, first in enumerate(epsilons):
            for j, across in enumerate(epsilons):
                moved = (pixels + first * own + across * other).clamp(0, 255)
                losses[:, i, j] = functional.cross_entropy(model(moved), labels, reduction="none")
    return losses
