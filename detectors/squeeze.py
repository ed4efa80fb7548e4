"""The squeezed view: a narrow blur, where it moves little."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BINOMIAL = (1 / 4, 1 / 2, 1 / 4)
"""Weights of the blur along each axis."""
NEAR = 4.0
"""Grey levels up to which the squeezed view takes the blur's place for the pixel's."""
FAR = 8.0
"""Grey levels of the blur from the pixel at which the pixel stays as it is."""


def squeeze(x: Tensor, gain: Tensor) -> Tensor:
    """Every pixel moved to the blur of its neighbourhood, where that is near.

    An attack of some grey levels is undone as by the blur itself. What a blur would change much
    (letters, dead pixels, a detector's dead column, sharp edges) stays, and with it the
    answer: it is no attack's size. A redescending limit, as robust statistics has it (Hampel 1974):
    a clamp would still move every far pixel by as much as it may.

    Args:
        x: ``float32[N, C, H, W]``, the network's input.
        gain: ``float32[1, C, 1, 1]``, what one grey level is there.

    Returns:
        The same shape.
    """
    return x + limited(blur(x) - x, gain)


def limited(move: Tensor, gain: Tensor) -> Tensor:
    """All of a move up to ``NEAR`` grey levels, nothing from ``FAR``, a share of it that falls
    linearly between. ``gain`` broadcasts."""
    share = (FAR - move.abs() / gain) / (FAR - NEAR)
    return move * share.clamp(0.0, 1.0)


def blur(x: Tensor) -> Tensor:
    """``BINOMIAL`` along both axes, edges replicated.

    Args:
        x: ``float32[N, C, H, W]``.

    Returns:
        The same shape.
    """
    channels, weights = x.shape[1], torch.tensor(BINOMIAL, dtype=x.dtype, device=x.device)
    window = torch.outer(weights, weights).expand(channels, 1, -1, -1)
    padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(padded, window, groups=channels)


def root_mean_square(change: Tensor) -> Tensor:
    """``float32[N, C, H, W]`` to ``float32[N]``."""
    return change.square().mean(dim=(1, 2, 3)).sqrt()
