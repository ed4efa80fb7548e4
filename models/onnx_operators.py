"""ONNX operators as torch functions: arithmetic, logic, reductions and shapes.

Each function takes a ``Node`` and the operator's inputs in the standard's order and returns what
the standard says (ONNX Operators, https://onnx.ai/onnx/operators/), with gradients where torch
has them. The neural-network layers are in ``models.onnx_layers``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Result = Tensor | tuple[Tensor, ...]


class ConversionProblem(Exception):
    """A graph that has no torch counterpart here. The message names the operator and the node."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a graph: its operator, what it reads and writes, its attributes."""

    name: str
    operator: str
    opset: int
    inputs: tuple[str, ...]
    """Names; empty for an optional input that is left out."""
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    """int, float, str, list of these, or Tensor."""

    def get(self, attribute: str, default: Any) -> Any:
        return self.attributes.get(attribute, default)

    def problem(self, what: str) -> ConversionProblem:
        return ConversionProblem(f"{self.operator} (node {self.name!r}): {what}")


@dataclass(frozen=True, slots=True)
class Operator:
    """How one ONNX operator is evaluated."""

    function: Callable[..., Result]
    attributes: frozenset[str]
    """The attributes that the function honours."""
    host: tuple[int, ...]
    """Inputs read as numbers (shapes, axes, bounds): they stay in host memory."""
    shapes: bool
    """Whether it is computed in host memory when all its inputs are there: shape arithmetic."""
    outputs: int


OPERATORS: dict[str, Operator] = {}


def operator(
    *names: str,
    attributes: str = "",
    host: tuple[int, ...] = (),
    shapes: bool = False,
    outputs: int = 1,
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Enter a function in the table under the operators' names."""

    def enter(function: Callable[..., Result]) -> Callable[..., Result]:
        entry = Operator(function, frozenset(attributes.split()), host, shapes, outputs)
        OPERATORS.update(dict.fromkeys(names, entry))
        return function

    return enter


def integers(values: Tensor) -> list[int]:
    """A host tensor's numbers."""
    return [int(v) for v in values.reshape(-1).tolist()]


def _is_integer(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex())


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Asin": torch.asin,
    "Atan": torch.atan,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,  # half to even, as the standard asks
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}


def _plain(function: Callable[..., Tensor]) -> Callable[..., Result]:
    return lambda _node, *inputs: function(*inputs)


for _name, _unary in _UNARY.items():
    operator(_name, shapes=True)(_plain(_unary))
for _name, _binary in _BINARY.items():
    operator(_name, shapes=True)(_plain(_binary))


@operator("Div", shapes=True)
def _div(_node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode="trunc" if _is_integer(a) else None)


@operator("Mod", attributes="fmod", shapes=True)
def _mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if node.get("fmod", 0) else torch.remainder(a, b)


@operator("Pow", shapes=True)
def _pow(_node: Node, base: Tensor, exponent: Tensor) -> Tensor:
    return torch.pow(base, exponent).to(base.dtype)


@operator("Min", shapes=True)
def _min(_node: Node, *inputs: Tensor) -> Tensor:
    result = inputs[0]
    for x in inputs[1:]:
        result = torch.minimum(result, x)
    return result


@operator("Max", shapes=True)
def _max(_node: Node, *inputs: Tensor) -> Tensor:
    result = inputs[0]
    for x in inputs[1:]:
        result = torch.maximum(result, x)
    return result


@operator("Sum", shapes=True)
def _sum(_node: Node, *inputs: Tensor) -> Tensor:
    result = inputs[0]
    for x in inputs[1:]:
        result = result + x
    return result


@operator("IsInf", attributes="detect_negative detect_positive")
def _is_inf(node: Node, x: Tensor) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if node.get("detect_positive", 1):
        found = found | torch.isposinf(x)
    if node.get("detect_negative", 1):
        found = found | torch.isneginf(x)
    return found


@operator("Where", shapes=True)
def _where(_node: Node, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


@operator("Clip", attributes="min max", host=(1, 2), shapes=True)
def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    lowest = node.get("min", None) if low is None else low.item()  # attributes before opset 11
    highest = node.get("max", None) if high is None else high.item()
    return x if lowest is None and highest is None else torch.clamp(x, lowest, highest)


@operator("Identity", shapes=True)
def _identity(_node: Node, x: Tensor) -> Tensor:
    return x


@operator("Cast", attributes="to saturate", shapes=True)
def _cast(node: Node, x: Tensor) -> Tensor:
    return x.to(node.attributes["to"])


@operator("CastLike", attributes="saturate", shapes=True)
def _cast_like(_node: Node, x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)


@operator("MatMul")
def _matmul(_node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@operator("Gemm", attributes="alpha beta transA transB")
def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.mT if node.get("transA", 0) else a
    b = b.mT if node.get("transB", 0) else b
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    product = a @ b if alpha == 1 else alpha * (a @ b)
    if c is None:
        return product
    return product + (c if beta == 1 else beta * c)


@operator("Einsum", attributes="equation")
def _einsum(node: Node, *inputs: Tensor) -> Tensor:
    return torch.einsum(node.attributes["equation"], *inputs)


def _prod(x: Tensor, dim: list[int], keepdim: bool) -> Tensor:
    for axis in sorted((d % x.ndim for d in dim), reverse=True):
        x = x.prod(axis, keepdim=keepdim)
    return x


_REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceL1": lambda x, dim, keep: x.abs().sum(dim, keepdim=keep, dtype=x.dtype),
    "ReduceL2": lambda x, dim, keep: torch.linalg.vector_norm(x, 2, dim, keep),
    "ReduceLogSum": lambda x, dim, keep: x.sum(dim, keepdim=keep).log(),
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceMax": torch.amax,
    "ReduceMean": lambda x, dim, keep: x.mean(dim, keepdim=keep),
    "ReduceMin": torch.amin,
    "ReduceProd": _prod,
    "ReduceSum": lambda x, dim, keep: x.sum(dim, keepdim=keep, dtype=x.dtype),
    "ReduceSumSquare": lambda x, dim, keep: (x * x).sum(dim, keepdim=keep, dtype=x.dtype),
}


@operator(*_REDUCTIONS, attributes="axes keepdims noop_with_empty_axes", host=(1,), shapes=True)
def _reduce(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    dims = node.get("axes", []) if axes is None else integers(axes)
    if not dims:
        if node.get("noop_with_empty_axes", 0):
            return x
        dims = list(range(x.ndim))
    if x.ndim == 0:
        dims, x = [0], x.reshape(1)
        return _REDUCTIONS[node.operator](x, dims, False)
    return _REDUCTIONS[node.operator](x, dims, bool(node.get("keepdims", 1)))


@operator("ArgMax", "ArgMin", attributes="axis keepdims select_last_index")
def _arg(node: Node, x: Tensor) -> Tensor:
    find = torch.argmax if node.operator == "ArgMax" else torch.argmin
    axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
    if node.get("select_last_index", 0):
        return find(x.flip(axis), dim=axis, keepdim=keep).mul(-1).add(x.shape[axis] - 1)
    return find(x, dim=axis, keepdim=keep)


@operator("TopK", attributes="axis largest sorted", host=(1,), outputs=2)
def _top_k(node: Node, x: Tensor, k: Tensor) -> Result:
    found = torch.topk(
        x, integers(k)[0], node.get("axis", -1), bool(node.get("largest", 1)), sorted=True
    )
    return found.values, found.indices


@operator("CumSum", attributes="exclusive reverse", host=(1,))
def _cumsum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    dim = integers(axis)[0]
    x = x.flip(dim) if node.get("reverse", 0) else x
    total = x.cumsum(dim, dtype=x.dtype)
    total = total - x if node.get("exclusive", 0) else total
    return total.flip(dim) if node.get("reverse", 0) else total


@operator("Trilu", attributes="upper", host=(1,))
def _trilu(node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else integers(k)[0]
    return x.triu(diagonal) if node.get("upper", 1) else x.tril(diagonal)


@operator("OneHot", attributes="axis", host=(1,))
def _one_hot(node: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    size = integers(depth)[0]
    hot = functional.one_hot(indices.long() % size, size).bool()
    # The standard turns an index outside [-depth, depth) into a row without an "on".
    hot = hot & ((indices >= -size) & (indices < size)).unsqueeze(-1)
    axis = node.get("axis", -1)
    return torch.where(hot.movedim(-1, axis), values[1], values[0])


@operator("Range", host=(0, 1, 2))
def _range(_node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    count = max(math.ceil((limit.item() - start.item()) / delta.item()), 0)
    return start + delta * torch.arange(count, dtype=start.dtype)
