"""How far the picture's finest texture lies along the model's own input gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.head import class_logits
from models.spec import Head

DIFFERENCE = (-0.5, 1.0, -0.5)
"""Second difference along an axis, of both in turn: what is left of a photograph where smooth
regions and straight edges along the axes are gone, and most of a pattern of signs is not."""
HIGHEST = 4.0
"""Grey levels at which the picture's second differences are cut off: corners must not drown what
lies between them."""
SOFT = 0.1
"""A gradient of this share of the picture's mean and more counts as its sign, less in proportion:
the sign of next to nothing is another on the next machine."""
LEAST = 1e-3
"""Grey levels: root mean square below which there is no texture."""


class Seed(nn.Module):
    """From raw logits ``[N, L]`` to the weights whose product with them an attack has raised: the
    predicted class's less its rival's; of findings, which have no rival, every one that is present
    less every one that is not."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, raw: Tensor) -> Tensor:
        if self.head is Head.MULTILABEL:
            return raw.sign()
        best = class_logits(raw, self.head).topk(2, dim=1).indices
        classes = torch.arange(max(raw.shape[1], 2), device=raw.device)
        seed = (best[:, :1] == classes).to(raw.dtype) - (best[:, 1:] == classes).to(raw.dtype)
        return seed[:, 1:] if self.head is Head.SIGMOID else seed


class Aligned(nn.Module):
    """``float32[N, 2]``: the correlation of the image's second differences, cut off, with those of
    a step along the gradient; the root mean square of the image's, in grey levels."""

    grey: Tensor

    def __init__(self, gain: Tensor) -> None:
        """
        Args:
            gain: what one grey level is in the network's input; broadcasts with it.
        """
        super().__init__()
        self.register_buffer("grey", 1 / gain.detach().clone())

    def forward(self, x: Tensor, gradient: Tensor) -> Tensor:
        """
        Args:
            x: ``float32[N, C, h, w]``, the network's input.
            gradient: ``float32[N, C, h, w]``, of what ``Seed`` weighs.
        """
        grain = _differences(x, self.grey).clamp(-HIGHEST, HIGHEST)
        step = self.step(gradient)
        height = mean_product(grain, grain).sqrt().clamp(min=LEAST)
        length = mean_product(step, step).sqrt().clamp(min=LEAST)
        return torch.stack([mean_product(grain, step) / (height * length), height], dim=1)

    def step(self, gradient: Tensor) -> Tensor:
        """Second differences, ``float32[N, C, h - 2, w - 2]``, of the sign of a gradient
        ``float32[N, C, h, w]``: what an attack's step leaves between neighbouring pixels."""
        size = gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
        return _differences((gradient / (SOFT * size)).clamp(-1.0, 1.0))


def mean_product(a: Tensor, b: Tensor) -> Tensor:
    """``float32[N]``: mean over each of N images of the product of two ``[N, C, h, w]``."""
    return (a * b).mean(dim=(1, 2, 3))


def _differences(x: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """``float32[N, C, h - 2, w - 2]``, of the scaled picture: by slices, since a convolution of one
    channel is computed as one of sixteen."""
    edge, middle = DIFFERENCE[:2]
    x = middle * scale * x[:, :, 1:-1] + edge * scale * (x[:, :, :-2] + x[:, :, 2:])
    return middle * x[..., 1:-1] + edge * (x[..., :-2] + x[..., 2:])
