"""Slopes for a guard's steps: exact forwards, useful backwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import Tensor

from models.onnx_operators import Node, Result
from models.onnx_to_torch import OnnxModule

SMOOTHING = 0.5
"""Width of a smoothed step, in median distances of benign values from it: wide enough that most
trees and bits of an image pull on it, narrow enough that the nearest pull most."""

_SIGNS = {"Greater": 1, "GreaterOrEqual": 1, "Less": -1, "LessOrEqual": -1}


class SmoothedModule(OnnxModule):
    """A fused graph whose detectors can be followed where they have no gradient: Backward Pass
    Differentiable Approximation (Athalye et al. 2018, arXiv 1802.00420, section 4.1.1).

    Values are those of the graph, to the bit. Behind the ``features``, backwards,

    - ``a > b`` of floats (bits of quantised features, tests of a tree) is ``σ((a - b) / T)``,
    - ``a == b`` of floats (a leaf that all of its tests lead to) is ``exp(-|a - b|)``, seen from
      below: a tree's leaf is reached at its largest value,
    - a clip on both sides (a detector that is certain) is the identity.

    The network before the features keeps its own gradients.
    """

    def __init__(self, model: onnx.ModelProto, features: Sequence[str]) -> None:
        """
        Args:
            features: values that divide the network from the guard.
        """
        super().__init__(model)
        needed = set(features)
        self._network: set[str] = set()
        for node in reversed(model.graph.node):
            if not needed.isdisjoint(node.output):
                needed.update(node.input)
                self._network.update(node.output)
        self._widths: dict[str, float] = {}
        self._measuring = False

    def measure_steps(self, pixels: Tensor) -> None:
        """Learn every step's width T from benign images."""
        self._measuring = True
        with torch.no_grad():
            self.outputs((pixels,), self.output_names)
        self._measuring = False

    def evaluate(self, node: Node, arguments: list[Tensor | None]) -> Result:
        exact = super().evaluate
        if node.outputs[0] in self._network:
            return exact(node, arguments)
        first = arguments[0] if arguments else None
        if first is None or not first.is_floating_point():
            return exact(node, arguments)
        if node.operator in _SIGNS or node.operator == "Equal":
            difference = first - _tensor(arguments[1])
            if self._measuring:
                median = float(difference.abs().median())
                self._widths[node.outputs[0]] = SMOOTHING * max(median, 1e-12)
            if not difference.requires_grad:
                return exact(node, arguments)
            answer = _tensor(exact(node, arguments)).to(first.dtype)
            if node.operator == "Equal":
                return _tensor(_Equality.apply(difference, answer))  # type: ignore[no-untyped-call]  # untyped in torch
            width = self._widths.get(node.outputs[0], 1.0) * _SIGNS[node.operator]
            return _tensor(_Step.apply(difference, answer, width))  # type: ignore[no-untyped-call]  # untyped in torch
        if node.operator == "Clip" and first.requires_grad:
            clipped = _tensor(exact(node, arguments))
            two_sided = len(arguments) == 3 and None not in arguments
            return _tensor(_Through.apply(first, clipped)) if two_sided else clipped  # type: ignore[no-untyped-call]  # untyped in torch
        if node.operator == "Where" and first.requires_grad:
            return exact(node, [first != 0, *arguments[1:]])
        return exact(node, arguments)


class _Step(torch.autograd.Function):
    """Forwards ``answer``; backwards ``σ(difference / width)``."""

    @staticmethod
    def forward(ctx: Any, difference: Tensor, answer: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(difference)
        ctx.width = width
        return answer

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (difference,) = ctx.saved_tensors
        soft = torch.sigmoid(difference / ctx.width)
        return gradient * soft * (1 - soft) / ctx.width, None, None


class _Equality(torch.autograd.Function):
    """Forwards ``answer``; backwards ``exp(-|difference|)``, its slope at 0 that from below."""

    @staticmethod
    def forward(ctx: Any, difference: Tensor, answer: Tensor) -> Tensor:
        ctx.save_for_backward(difference)
        return answer

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        rising = torch.where(difference <= 0, 1.0, -1.0)
        return gradient * rising * torch.exp(-difference.abs()), None


class _Through(torch.autograd.Function):
    """Forwards ``clipped``; backwards the identity."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, clipped: Tensor) -> Tensor:
        del ctx, value
        return clipped.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        del ctx
        return gradient, None


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value
