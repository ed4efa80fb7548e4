"""How far the picture's finest texture lies along what is foretold of the model's gradient: as
``detectors.aligned`` has it of the gradient itself, at a fraction of the cost."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from detectors.aligned import DIFFERENCE, HIGHEST, LEAST, mean_product
from detectors.synthetic_gradient import PATCH, POOLED, SyntheticGradient

PART = 4
"""Pixels along the side of a square whose second differences are taken at once: a convolution to
one channel is computed as one to sixteen, so it may as well make sixteen."""


class Foretold(nn.Module):
    """``float32[N, 2]``: ``Aligned`` of what ``network`` paints, without painting it.

    With ``s_p`` what a patch ``p`` is painted with, ``W`` the brushes and ``d_p`` the image's
    second differences there, the product of the picture ``W s_p`` with these is ``s_p . W^T d_p``,
    and the picture's length ``|R s_p|`` with ``W = Q R``: as many numbers a patch as there are
    brushes, and no picture.

    Second differences are taken in whole parts of 4 x 4 pixels, so up to three rows and columns at
    the lower right border are left out; the length is of the patches as they are painted, beyond
    the border too.
    """

    areas: Tensor
    differences: Tensor
    brushes: Tensor
    lengths: Tensor

    def __init__(self, network: SyntheticGradient, gain: Tensor) -> None:
        """
        Args:
            gain: what one grey level is in the network's input; broadcasts with it.
        """
        super().__init__()
        self.network = network
        painted = network.paint.weight.detach()  # [WIDTH, C, 8, 8]
        width, self.channels = painted.shape[:2]
        first = network.first.weight.detach()
        areas = first.repeat_interleave(POOLED, dim=2).repeat_interleave(POOLED, dim=3)
        self.register_buffer("areas", areas / POOLED**2)
        axis = torch.tensor(DIFFERENCE, device=gain.device)
        kernel = gain.new_zeros(PART, PART, PART + 2, PART + 2)
        for row in range(PART):
            for column in range(PART):
                kernel[row, column, row : row + 3, column : column + 3] = torch.outer(axis, axis)
        grey = (1 / gain.detach()).expand(1, self.channels, 1, 1).reshape(-1, 1, 1, 1, 1)
        self.register_buffer("differences", grey * kernel.flatten(0, 1)[:, None])
        parts = painted.reshape(width, self.channels, 2, PART, 2, PART)
        self.register_buffer("brushes", parts.permute(0, 1, 3, 5, 2, 4).flatten(1, 3).contiguous())
        _, root = torch.linalg.qr(painted.flatten(1).T)
        self.register_buffer("lengths", root[:, :, None, None].contiguous())

    def forward(self, x: Tensor, seed: Tensor) -> Tensor:
        """
        Args:
            x: ``float32[N, C, h, w]``, the network's input.
            seed: ``float32[N, L]``, of ``detectors.aligned.Seed``.
        """
        seen = functional.conv2d(self.network.filled(x), self.areas, stride=PATCH)
        strokes = self.network.strokes(seen, seed)
        # one after the other: ONNX Runtime takes twice as long for them in groups
        channels = zip(torch.split(x, 1, dim=1), self.differences, strict=True)
        planes = [functional.conv2d(plane, kernel, stride=PART) for plane, kernel in channels]
        grain = torch.cat([plane.clamp(-HIGHEST, HIGHEST) for plane in planes], dim=1)
        height = mean_product(grain, grain).sqrt().clamp(min=LEAST)
        below, right = (2 * strokes.shape[axis] - grain.shape[axis] for axis in (2, 3))
        along = functional.conv2d(
            functional.pad(grain, (0, right, 0, below)), self.brushes, stride=PATCH // PART
        )
        ends = functional.conv2d(strokes, self.lengths)
        pixels = grain[0].numel()
        product = (strokes * along).sum(dim=(1, 2, 3)) / pixels
        length = ((ends * ends).sum(dim=(1, 2, 3)) / pixels).sqrt().clamp(min=LEAST)
        return torch.stack([product / (height * length), height], dim=1)
