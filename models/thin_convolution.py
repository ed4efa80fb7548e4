"""A network's first convolution, with an input gradient that costs no more than the convolution.

Libraries compute the gradient with respect to one or three input channels many times slower than
the convolution itself: vectors of 16 numbers are filled with one or three. An attack asks for it
in every step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MOST_CHANNELS = 4


class ThinConvolution(nn.Module):
    """A ``Conv2d`` of at most ``MOST_CHANNELS`` input channels: same outputs, same gradient to
    rounding.

    The gradient's pixels fall into ``s x s`` phases of the stride s. Each is a small convolution
    of the output's gradient; all of them together are one convolution with ``s * s`` times the
    channels, whose result is interleaved (``pixel_shuffle``).
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        (self.stride,) = set(convolution.stride)
        self.register_buffer("phases", _phases(convolution), persistent=False)

    phases: Tensor

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether ``module`` can be replaced by this one."""
        return (
            isinstance(module, nn.Conv2d)
            and module.in_channels <= MOST_CHANNELS
            and module.groups == 1
            and set(module.dilation) == {1}
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and len(set(module.stride)) == 1
        )

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            plain: Tensor = self.convolution(x)
            return plain
        result: Tensor = _Thin.apply(x, self)  # type: ignore[no-untyped-call]  # untyped in torch
        return result

    def input_gradient(self, gradient: Tensor, height: int, width: int) -> Tensor:
        """``[N, C, height, width]`` from the output's gradient ``[N, O, h, w]``."""
        (top, rows), (left, columns) = (
            _pads(self.convolution, axis, size, gradient.shape[2 + axis])
            for axis, size in enumerate((height, width))
        )
        # padded alike on both sides and cropped: a padded copy would cost more
        padding = max(top, rows, 0), max(left, columns, 0)
        phases = functional.conv2d(gradient, self.phases, padding=padding)
        down, right = padding[0] - top, padding[1] - left
        blocks = -(-height // self.stride), -(-width // self.stride)
        phases = phases[:, :, down : down + blocks[0], right : right + blocks[1]]
        return functional.pixel_shuffle(phases, self.stride)[:, :, :height, :width]


class _Thin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, thin: ThinConvolution) -> Tensor:
        ctx.thin, ctx.size = thin, x.shape[2:]
        return thin.convolution(x)  # type: ignore[no-any-return]  # a Module's call is untyped in torch

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.thin.input_gradient(gradient, *ctx.size), None


def _offsets(convolution: nn.Conv2d, axis: int) -> tuple[int, int]:
    """First and last output, relative to its own, that an input pixel's phase reads."""
    kernel, stride = convolution.kernel_size[axis], convolution.stride[axis]
    padding = int(convolution.padding[axis])
    return -((kernel - 1 - padding) // stride), (stride - 1 + padding) // stride


def _pads(convolution: nn.Conv2d, axis: int, size: int, outputs: int) -> tuple[int, int]:
    first, last = _offsets(convolution, axis)
    blocks = -(-size // convolution.stride[axis])
    return -first, blocks + last - outputs


def _phases(convolution: nn.Conv2d) -> Tensor:
    """``[C * s * s, O, D, E]``: at phase (r, q) and offset (d, e) the weight that output
    ``m + d`` gave to input ``s m + r``, number ``r + p - s d`` of the kernel."""
    weight, stride = convolution.weight.detach(), convolution.stride[0]
    outputs, channels, height, width = weight.shape
    (top, bottom), (left, right) = _offsets(convolution, 0), _offsets(convolution, 1)
    phases = weight.new_zeros(channels, stride, stride, outputs, bottom - top + 1, right - left + 1)
    for r in range(stride):
        for d in range(top, bottom + 1):
            row = r + int(convolution.padding[0]) - stride * d
            if not 0 <= row < height:
                continue
            for q in range(stride):
                for e in range(left, right + 1):
                    column = q + int(convolution.padding[1]) - stride * e
                    if 0 <= column < width:
                        phases[:, r, q, :, d - top, e - left] = weight[:, :, row, column].T
    return phases.flatten(0, 2).contiguous(memory_format=torch.channels_last)
