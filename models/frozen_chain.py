"""Convolutions that follow each other, with weights that never change, as attacks on a CPU need
them.

What libraries do anew in every pass is done once or not at all: weights are brought into the order
that the processor wants; sums with a shortcut and ReLUs happen while an output is in registers; the
gradient with respect to an input is itself a convolution, with reordered weights, and is added to
what a shortcut brought where that lies. Of the activations only those are kept that tell a ReLU's
sign or that a stride's gradient asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

_ops = torch.ops.mkldnn


@dataclass(frozen=True, slots=True)
class Link:
    """``relu(conv(values[x]) + values[addend])``, sum and ReLU each if wanted.

    Values are the chain's inputs, then its links' outputs, in order.
    """

    x: int
    addend: int | None
    relu: bool


class FrozenChain(nn.Module):
    """Some inputs to the last link's output: same numbers and same gradients to rounding as the
    modules it stands for. Differentiable once.

    Until ``pack`` is called, and for shapes it was not packed for, it runs as those.
    """

    def __init__(
        self, convolutions: Sequence[nn.Conv2d], links: Sequence[Link], inputs: int
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)
        self.links = tuple(links)
        self.inputs = inputs
        self.packed: tuple[PackedLink, ...] = ()
        self._shapes: list[torch.Size] = []

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether ``module`` can be part of a chain."""
        return (
            type(module) is nn.Conv2d
            and module.groups == 1
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and not (module._forward_hooks or module._forward_pre_hooks)
        )

    def pack(self, shapes: Sequence[torch.Size]) -> None:
        """Reorder the weights for inputs of ``shapes``, ``[N, C, H, W]`` each. N is a hint.

        Without oneDNN, or on another device, nothing is packed.
        """
        if not (torch._C._has_mkldnn and hasattr(_ops, "_convolution_pointwise")):
            return
        if any(parameter.device.type != "cpu" for parameter in self.parameters()):
            return
        values, packed = list(shapes), []
        for link, convolution in zip(self.links, self.convolutions, strict=True):
            assert isinstance(convolution, nn.Conv2d)
            packed.append(PackedLink.of(convolution, link, values[link.x]))
            values.append(packed[-1].output)
            if link.addend is not None and values[link.addend] != values[-1]:
                return  # a sum that broadcasts
        self.packed = tuple(packed)
        self._shapes = [shape[1:] for shape in shapes]

    def forward(self, *inputs: Tensor) -> Tensor:
        packed = [value.shape[1:] for value in inputs] == self._shapes and all(
            len(value) == len(inputs[0])
            and value.dtype == torch.float32
            and value.device.type == "cpu"
            for value in inputs
        )
        if packed:
            result: Tensor = _Chain.apply(self.packed, *inputs)  # type: ignore[no-untyped-call]  # untyped in torch
            return result
        values = list(inputs)
        for link, convolution in zip(self.links, self.convolutions, strict=True):
            y = convolution(values[link.x])
            y = y if link.addend is None else y + values[link.addend]
            values.append(functional.relu(y) if link.relu else y)
        return values[-1]


@dataclass(frozen=True, slots=True)
class Packed:
    """A convolution whose weights have the order that oneDNN wants."""

    weight: Tensor
    bias: Tensor | None
    padding: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(
        cls,
        weight: Tensor,
        bias: Tensor | None,
        padding: tuple[int, ...],
        stride: tuple[int, ...],
        dilation: tuple[int, ...],
        shape: torch.Size,
    ) -> Self:
        weight = weight.contiguous(memory_format=torch.channels_last)
        weight = _ops._reorder_convolution_weight(weight, padding, stride, dilation, 1, list(shape))
        return cls(weight, bias, padding, stride, dilation)

    def __call__(self, x: Tensor, addend: Tensor | None = None, *, relu: bool = False) -> Tensor:
        given = self.weight, self.bias, self.padding, self.stride, self.dilation, 1
        if addend is None:
            y: Tensor = _ops._convolution_pointwise(x, *given, "relu" if relu else "none", [], "")
            return y
        result: Tensor = _ops._convolution_pointwise.binary(
            x, addend, *given, "add", 1.0, "relu" if relu else None, [], None
        )
        return result

    def add_to(self, total: Tensor, x: Tensor) -> Tensor:
        """``total + conv(x)`` in ``total``'s place."""
        given = self.weight, self.bias, self.padding, self.stride, self.dilation, 1
        y: Tensor = _ops._convolution_pointwise_.binary(
            total, x, *given, "add", 1.0, None, [], None
        )
        return y


@dataclass(frozen=True, slots=True)
class PackedLink:
    """A link's convolution and the one that is its input gradient."""

    link: Link
    convolution: nn.Conv2d
    forward: Packed
    backward: Packed | None
    """None where the gradient is no plain convolution: strides, more padding than kernel."""
    output: torch.Size

    @classmethod
    def of(cls, convolution: nn.Conv2d, link: Link, shape: torch.Size) -> Self:
        """For an input of ``shape``."""
        weight = convolution.weight.detach()
        bias = None if convolution.bias is None else convolution.bias.detach()
        padding = tuple(int(pad) for pad in convolution.padding)
        stride, dilation, kernel = (
            convolution.stride,
            convolution.dilation,
            convolution.kernel_size,
        )
        reach = tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        sides = [
            (side + 2 * p - r - 1) // s + 1
            for side, p, r, s in zip(shape[2:], padding, reach, stride, strict=True)
        ]
        output = torch.Size((shape[0], len(weight), *sides))
        opposite = tuple(r - p for r, p in zip(reach, padding, strict=True))
        backward = None
        if set(stride) == {1} and min(opposite) >= 0:
            turned = weight.flip(2, 3).transpose(0, 1)
            backward = Packed.of(turned, None, opposite, stride, dilation, output)
        forward = Packed.of(weight, bias, padding, stride, dilation, shape)
        return cls(link, convolution, forward, backward, output)

    def into(self, total: Tensor | None, gradient: Tensor, x: Tensor | None) -> Tensor:
        """The input's gradient from the output's, added to ``total`` in its place."""
        if self.backward is not None:
            if total is None:
                return self.backward(gradient)
            return self.backward.add_to(total, gradient)
        one = self.convolution
        found: Tensor = torch.ops.aten.convolution_backward(
            gradient, x, one.weight, None, one.stride, one.padding, one.dilation, False, [0, 0], 1,
            [True, False, False],
        )[0]  # fmt: skip
        return found if total is None else total.add_(found)


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: tuple[PackedLink, ...], *inputs: Tensor) -> Tensor:
        values = [value.contiguous(memory_format=torch.channels_last) for value in inputs]
        kept: set[int] = set()
        for one in packed:
            link = one.link
            addend = None if link.addend is None else values[link.addend]
            values.append(one.forward(values[link.x], addend, relu=link.relu))
            if link.relu:
                kept.add(len(values) - 1)
            if one.backward is None:
                kept.add(link.x)
        ctx.packed, ctx.inputs = packed, len(inputs)
        ctx.save_for_backward(*(v if i in kept else None for i, v in enumerate(values)))
        return values[-1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("networks made ready for attacks are differentiable once")
        values = ctx.saved_tensors
        # a copy: every gradient below is overwritten
        gradients: list[Tensor | None] = [None] * len(values)
        gradients[-1] = gradient.clone(memory_format=torch.channels_last)
        wanted = [*ctx.needs_input_grad[1:], *(True for _ in ctx.packed)]
        for number, one in reversed(list(enumerate(ctx.packed, ctx.inputs))):
            link, current = one.link, gradients[number]
            gradients[number] = None
            if current is None:
                continue
            if link.relu:
                torch.ops.aten.threshold_backward.grad_input(
                    current, values[number], 0, grad_input=current
                )
            if wanted[link.x]:
                gradients[link.x] = one.into(gradients[link.x], current, values[link.x])
            if link.addend is not None and wanted[link.addend]:
                total = gradients[link.addend]
                # nobody else reads this link's gradient any more
                gradients[link.addend] = current if total is None else total.add_(current)
        return None, *gradients[: ctx.inputs]
