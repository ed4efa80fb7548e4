"""How far the picture's finest texture lies along the model's own input gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

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
WIDTH = 2
"""Columns of ``Aligned``."""


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
    """``float32[N, 2]``: the correlation of two pictures of second differences, the image's, cut
    off, and its gradient's sign; the root mean square of the image's, in grey levels."""

    window: Tensor
    gain: Tensor

    def __init__(self, channels: int, gain: Tensor) -> None:
        """
        Args:
            gain: what one grey level is in the network's input; broadcasts with it.
        """
        super().__init__()
        along = torch.tensor(DIFFERENCE)
        window = torch.outer(along, along).expand(channels, 1, -1, -1)
        self.register_buffer("window", window.clone())
        self.register_buffer("gain", gain.detach().clone())

    def forward(self, x: Tensor, gradient: Tensor) -> Tensor:
        """
        Args:
            x: ``float32[N, C, h, w]``, the network's input.
            gradient: of the same shape, of what ``Seed`` weighs.
        """
        size = gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
        step = self._differences((gradient / (SOFT * size)).clamp(-1.0, 1.0))
        grain = self._differences(x / self.gain).clamp(-HIGHEST, HIGHEST)
        height = grain.square().mean(dim=(1, 2, 3)).sqrt().clamp(min=LEAST)
        length = step.square().mean(dim=(1, 2, 3)).sqrt().clamp(min=LEAST)
        shared = (grain * step).mean(dim=(1, 2, 3))
        return torch.stack([shared / (height * length), height], dim=1)

    def _differences(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
        return functional.conv2d(padded, self.window, groups=x.shape[1])
