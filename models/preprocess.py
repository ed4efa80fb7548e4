"""The declared preprocessing as a module, so that it runs inside the graph and has gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.spec import Preprocessing

TOGETHER = 16
"""Rows, or columns, that one product makes, from the pixels that they depend on."""


class Preprocess(nn.Module):
    """Decoded pixels ``uint8 or float[N, H, W, 1 or 3]`` in grey levels 0 to 255 to
    ``float32[N, C, h, w]`` as ``models.spec.Preprocessing`` declares.

    Resizing is the antialiased bilinear (triangle) filter of Pillow and of
    ``torch.nn.functional.interpolate(antialias=True)``, written as matrix products: the same
    numbers in torch and ONNX, differentiable, and exact where the size does not change.
    """

    gain: Tensor
    bias: Tensor

    def __init__(self, spec: Preprocessing) -> None:
        super().__init__()
        self.spec = spec
        std = torch.tensor(spec.std)
        self.register_buffer("gain", (1 / (255 * std)).reshape(1, -1, 1, 1))
        self.register_buffer("bias", (-torch.tensor(spec.mean) / std).reshape(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        count, _, width, channels = pixels.shape
        out = self.spec.size
        rows = self._resized(pixels.flatten(2), 0, pixels)
        turned = rows.reshape(count, out[0], width, channels).permute(0, 2, 3, 1)
        columns = self._resized(turned.flatten(2), 1, pixels)
        x = columns.reshape(count, out[1], channels, out[0]).permute(0, 2, 3, 1)
        return self._channels(x) * self.gain + self.bias

    def keeps(self, height: int, width: int) -> bool:
        """Whether pixels of this size are neither resized nor cropped."""
        return (height, width) == self.spec.size and self.spec.resize in (None, self.spec.size)

    def unresized(self, pixels: Tensor) -> Tensor:
        """``forward`` of pixels that it ``keeps``: the same numbers without products by the
        identity. Not for export, where sizes are open."""
        x = pixels.to(self.gain.dtype).permute(0, 3, 1, 2)
        return self._channels(x) * self.gain + self.bias

    def _channels(self, x: Tensor) -> Tensor:
        """Of ``float[N, 1 or 3, h, w]``, without a branch on their number: their mean; or three,
        or one thrice."""
        if self.spec.channels == 1:
            return x.mean(dim=1, keepdim=True)
        return x.index_select(1, torch.arange(3, device=x.device).clamp(max=x.shape[1] - 1))

    def _resized(self, x: Tensor, axis: int, pixels: Tensor) -> Tensor:
        """``[N, A, B]`` to ``float[N, out, B]``: along the first axis, which is that ``axis`` of
        ``pixels``, rows or columns.

        An output's weights lie within a filter's width of its place. So ``TOGETHER`` outputs at a
        time are made from the pixels around them: of a radiograph of 2500 rows a tenth. Pixels are
        copied there before they become floats.
        """
        size, out, dtype = x.shape[1], self.spec.size[axis], self.gain.dtype
        resized, least = self._goal(axis, pixels)
        scale = size / resized
        reach = torch.clamp(scale, min=1)
        groups = -(-out // TOGETHER)
        outputs = torch.arange(groups * TOGETHER, dtype=dtype, device=x.device)
        offset = torch.floor((resized - out) / 2)
        centre = ((outputs + offset + 0.5) * scale).reshape(groups, TOGETHER, 1)
        # no scale is larger than size / least
        longest = (TOGETHER - 1) * size // least + 2 * (size // least + 1) + 3
        first = torch.floor(centre[:, :1] - reach)
        inputs = first + torch.arange(longest, dtype=dtype, device=x.device)  # [groups, 1, longest]
        weights = torch.clamp(1 - (inputs + 0.5 - centre).abs() / reach, min=0)
        weights = weights * ((inputs >= 0) & (inputs < size))
        # none is left of those beyond the last output
        weights = weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-6)
        places = inputs.clamp(0, size - 1).to(torch.int64).flatten()
        around = x.index_select(1, places).to(dtype)
        around = around.reshape(x.shape[0], groups, longest, x.shape[2])
        return torch.matmul(weights, around).flatten(1, 2)[:, :out]

    def _goal(self, axis: int, pixels: Tensor) -> tuple[Tensor, int]:
        """To how many pixels the axis is resized before it is cropped; and to how many at least."""
        height, width = (
            torch.scalar_tensor(pixels.shape[i], dtype=self.gain.dtype, device=pixels.device)
            for i in (1, 2)
        )
        own = (height, width)[axis]
        resize = self.spec.resize
        if resize is None:
            return own, pixels.shape[1 + axis]
        if isinstance(resize, tuple):
            return torch.full_like(own, resize[axis]), resize[axis]
        return torch.floor(own * resize / torch.minimum(height, width) + 0.5), resize
