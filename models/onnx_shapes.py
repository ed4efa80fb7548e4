"""ONNX operators that move elements without changing them: gather, slice, pad, reshape."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from models.onnx_operators import Node, Result, integers, operator


@operator("Shape", attributes="start end")
def _shape(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[node.get("start", 0) : node.get("end", None)], dtype=torch.int64)


@operator("Size")
def _size(_node: Node, x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


@operator("Reshape", attributes="allowzero", host=(1,), shapes=True)
def _reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    sizes = integers(shape)
    if not node.get("allowzero", 0):
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return x.reshape(sizes)


@operator("Flatten", attributes="axis")
def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Transpose", attributes="perm", shapes=True)
def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.get("perm", list(range(x.ndim))[::-1]))


@operator("Squeeze", attributes="axes", host=(1,), shapes=True)
def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    dims = node.get("axes", None) if axes is None else integers(axes)
    return x.squeeze() if dims is None else x.squeeze(tuple(dims))


@operator("Unsqueeze", attributes="axes", host=(1,), shapes=True)
def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    dims = node.get("axes", []) if axes is None else integers(axes)
    rank = x.ndim + len(dims)
    for dim in sorted(d % rank for d in dims):
        x = x.unsqueeze(dim)
    return x


@operator("Expand", host=(1,))
def _expand(_node: Node, x: Tensor, shape: Tensor) -> Tensor:
    sizes = integers(shape)
    rank = max(x.ndim, len(sizes))
    ours, theirs = [1] * (rank - x.ndim) + list(x.shape), [1] * (rank - len(sizes)) + sizes
    return x.broadcast_to([a if b == 1 else b for a, b in zip(ours, theirs, strict=True)])


@operator("Tile", host=(1,))
def _tile(_node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(integers(repeats))


@operator("ConstantOfShape", attributes="value", host=(0,), shapes=True)
def _constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    value = node.get("value", torch.zeros(1))
    return torch.full(integers(shape), value.item(), dtype=value.dtype)


@operator("Concat", attributes="axis", shapes=True)
def _concat(node: Node, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, dim=node.attributes["axis"])


@operator("Split", attributes="axis num_outputs split", host=(1,), outputs=1024)
def _split(node: Node, x: Tensor, split: Tensor | None = None) -> Result:
    axis = node.get("axis", 0)
    sizes = node.get("split", None) if split is None else integers(split)
    if sizes is None:
        return torch.chunk(x, len(node.outputs), dim=axis)
    return torch.split_with_sizes(x, sizes, dim=axis)


@operator("Gather", attributes="axis", shapes=True)
def _gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0) % x.ndim
    flat = _from_start(indices, x.shape[axis]).reshape(-1)
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@operator("GatherElements", attributes="axis")
def _gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0)
    return x.gather(axis, _from_start(indices, x.shape[axis]))


@operator("GatherND", attributes="batch_dims")
def _gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    batch = node.get("batch_dims", 0)
    rest = indices.ndim - 1 - batch
    rows = [
        torch.arange(size, device=x.device).reshape(
            [1] * axis + [-1] + [1] * (batch - axis - 1 + rest)
        )
        for axis, size in enumerate(x.shape[:batch])
    ]
    return x[(*rows, *indices.long().unbind(-1))]


@operator("ScatterElements", attributes="axis reduction")
def _scatter_elements(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis, reduction = node.get("axis", 0), node.get("reduction", "none")
    indices = _from_start(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, indices, updates)
    if reduction == "add":
        return x.scatter_add(axis, indices, updates)
    raise node.problem(f"reduction {reduction!r} is not supported")


@operator("ScatterND", attributes="reduction")
def _scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    reduction = node.get("reduction", "none")
    if reduction not in ("none", "add"):
        raise node.problem(f"reduction {reduction!r} is not supported")
    return x.index_put(indices.long().unbind(-1), updates, accumulate=reduction == "add")


@operator("Slice", host=(1, 2, 3, 4), attributes="starts ends axes", shapes=True)
def _slice(
    node: Node,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first = node.get("starts", []) if starts is None else integers(starts)
    last = node.get("ends", []) if ends is None else integers(ends)
    dims = node.get("axes", list(range(len(first)))) if axes is None else integers(axes)
    strides = [1] * len(first) if steps is None else integers(steps)
    for dim, start, end, step in zip(dims, first, last, strides, strict=True):
        if step > 0:
            x = x[(slice(None),) * (dim % x.ndim) + (slice(start, end, step),)]
        else:  # an end before the first element is -size - 1 or less, which Python clamps too
            chosen = torch.tensor(range(*slice(start, end, step).indices(x.shape[dim])))
            x = x.index_select(dim, chosen.long().to(x.device))
    return x


@operator("Pad", attributes="mode pads value", host=(1, 2, 3))
def _pad(
    node: Node,
    x: Tensor,
    pads: Tensor | None = None,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    mode = node.get("mode", "constant")
    widths = node.get("pads", []) if pads is None else integers(pads)
    dims = list(range(x.ndim)) if axes is None else [a % x.ndim for a in integers(axes)]
    before, after = widths[: len(dims)], widths[len(dims) :]
    if mode == "constant":
        around = {d: (b, a) for d, b, a in zip(dims, before, after, strict=True)}
        backwards = [w for d in reversed(range(x.ndim)) for w in around.get(d, (0, 0))]
        return functional.pad(
            x, backwards, value=node.get("value", 0.0) if value is None else value.item()
        )
    for dim, b, a in zip(dims, before, after, strict=True):
        if b or a:
            size = x.shape[dim]
            # made on the device: a CUDA graph can hold no copy from the host
            read = torch.arange(-b, size + a, device=x.device)
            x = x.index_select(dim, _outside(read, size, mode))
    return x


def _outside(index: Tensor, size: int, mode: str) -> Tensor:
    """Where an index beyond the edges reads from."""
    if mode == "edge":
        return index.clamp(0, size - 1)
    if mode == "wrap":
        return index % size
    period = max(2 * (size - 1), 1)  # reflect, without repeating the edge
    folded = index % period
    return torch.minimum(folded, period - folded) if size > 1 else torch.zeros_like(index)


def _from_start(indices: Tensor, size: int) -> Tensor:
    """Negative indices count from the end."""
    return torch.where(indices < 0, indices + size, indices).long()
