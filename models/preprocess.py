"""The declared preprocessing as a module, so that it runs inside the graph and has gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.spec import Preprocessing


class Preprocess(nn.Module):
    """Decoded pixels ``uint8 or float[N, H, W, 1 or 3]`` in grey levels 0 to 255 to
    ``float32[N, C, h, w]`` as ``models.spec.Preprocessing`` declares.

    Resizing is the antialiased bilinear (triangle) filter of Pillow and of
    ``torch.nn.functional.interpolate(antialias=True)``, written as two matrix products: the same
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
        x = self._channels(pixels)
        rows, columns = self._filters(x)
        return torch.matmul(rows, torch.matmul(x, columns.T)) * self.gain + self.bias

    def keeps(self, height: int, width: int) -> bool:
        """Whether pixels of this size are neither resized nor cropped."""
        return (height, width) == self.spec.size and self.spec.resize in (None, self.spec.size)

    def unresized(self, pixels: Tensor) -> Tensor:
        """``forward`` of pixels that it ``keeps``: the same numbers without two products by the
        identity and without copies of channels that are there. Not for export, where sizes are
        open."""
        if pixels.shape[3] == self.spec.channels == 3:
            x = pixels.to(self.gain.dtype).permute(0, 3, 1, 2)
        else:
            x = self._channels(pixels)
        return x * self.gain + self.bias

    def _channels(self, pixels: Tensor) -> Tensor:
        x = pixels.to(self.gain.dtype)
        if self.spec.channels == 1:
            return x.mean(dim=3).unsqueeze(1)
        # three channels or one thrice: RGB either way, without a branch on their number
        wanted = torch.arange(3, device=x.device).clamp(max=x.shape[3] - 1)
        return x.permute(0, 3, 1, 2).index_select(1, wanted)

    def _filters(self, x: Tensor) -> tuple[Tensor, Tensor]:
        height = torch.scalar_tensor(x.shape[2], dtype=x.dtype, device=x.device)
        width = torch.scalar_tensor(x.shape[3], dtype=x.dtype, device=x.device)
        resize = self.spec.resize
        if resize is None:
            resized = height, width
        elif isinstance(resize, tuple):
            resized = torch.full_like(height, resize[0]), torch.full_like(width, resize[1])
        else:
            shorter = torch.minimum(height, width)
            resized = (
                torch.floor(height * resize / shorter + 0.5),
                torch.floor(width * resize / shorter + 0.5),
            )
        inputs = (
            torch.arange(x.shape[2], dtype=x.dtype, device=x.device),
            torch.arange(x.shape[3], dtype=x.dtype, device=x.device),
        )
        return (
            _triangle(self.spec.size[0], resized[0], height, inputs[0]),
            _triangle(self.spec.size[1], resized[1], width, inputs[1]),
        )


def _triangle(out: int, resized: Tensor, size: Tensor, inputs: Tensor) -> Tensor:
    """``float32[out, size]``: row i holds the weights of the input pixels in the i-th of ``out``
    central pixels of an axis of ``size`` pixels resized to ``resized``."""
    scale = size / resized
    offset = torch.floor((resized - out) / 2)
    outputs = torch.arange(out, dtype=inputs.dtype, device=inputs.device)
    centre = (outputs + offset + 0.5) * scale
    distance = (inputs.unsqueeze(0) + 0.5 - centre.unsqueeze(1)).abs()
    weights = torch.clamp(1 - distance / torch.clamp(scale, min=1), min=0)
    return weights / weights.sum(dim=1, keepdim=True)
