"""ONNX operators that are layers of networks: convolution, pooling, normalisation, activation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from models.onnx_operators import Node, Result, integers, operator

_CONV = (functional.conv1d, functional.conv2d, functional.conv3d)
_CONV_TRANSPOSE = (
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
)
_MAX_POOL = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
_AVG_POOL: tuple[Callable[..., Tensor], ...] = (
    functional.avg_pool1d,
    functional.avg_pool2d,
    functional.avg_pool3d,
)
_WINDOW = "auto_pad ceil_mode dilations kernel_shape pads strides"


def _around(node: Node, x: Tensor, kernel: list[int]) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis."""
    n = len(kernel)
    mode = node.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = node.get("pads", [0] * (2 * n))
        return pads[:n], pads[n:]
    if mode == "VALID":
        return [0] * n, [0] * n
    strides, dilations = node.get("strides", [1] * n), node.get("dilations", [1] * n)
    small, large = [], []
    for size, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + dilation * (k - 1) + 1 - size, 0)
        small.append(total // 2)
        large.append(total - total // 2)
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def _pad(x: Tensor, before: list[int], after: list[int], value: float = 0.0) -> Tensor:
    pairs = zip(reversed(before), reversed(after), strict=True)
    return functional.pad(x, [width for pair in pairs for width in pair], value=value)


@operator("Conv", attributes="auto_pad dilations group kernel_shape pads strides")
def _conv(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    n = w.ndim - 2
    before, after = _around(node, x, list(w.shape[2:]))
    if before != after:
        x, before = _pad(x, before, after), [0] * n
    strides, dilations = node.get("strides", [1] * n), node.get("dilations", [1] * n)
    return _CONV[n - 1](x, w, b, strides, before, dilations, node.get("group", 1))


@operator(
    "ConvTranspose",
    attributes="auto_pad dilations group kernel_shape output_padding pads strides",
)
def _conv_transpose(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    n = w.ndim - 2
    pads = node.get("pads", [0] * (2 * n))
    if node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or pads[:n] != pads[n:]:
        raise node.problem("only padding that is the same on both sides is supported")
    return _CONV_TRANSPOSE[n - 1](
        x,
        w,
        b,
        node.get("strides", [1] * n),
        pads[:n],
        node.get("output_padding", [0] * n),
        node.get("group", 1),
        node.get("dilations", [1] * n),
    )


@operator("MaxPool", attributes=_WINDOW + " storage_order", outputs=2)
def _max_pool(node: Node, x: Tensor) -> Result:
    kernel = node.attributes["kernel_shape"]
    n = len(kernel)
    before, after = _around(node, x, kernel)
    places = len(node.outputs) > 1
    if before != after or any(2 * p > k for p, k in zip(before, kernel, strict=True)):
        if places:
            raise node.problem("places are known of even padding alone")
        x, before = _pad(x, before, after, -math.inf), [0] * n
    strides, dilations = node.get("strides", [1] * n), node.get("dilations", [1] * n)
    ceil = bool(node.get("ceil_mode", 0))
    pool = _MAX_POOL[n - 1]
    if not places:
        return pool(x, kernel, strides, before, dilations, ceil)
    largest, where = pool(x, kernel, strides, before, dilations, ceil, return_indices=True)
    plane = math.prod(x.shape[2:])  # torch counts within a plane, ONNX from the first of all
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(x.shape[:2])
    return largest, where + plane * planes[(..., *[None] * n)]


@operator("AveragePool", attributes=_WINDOW + " count_include_pad")
def _average_pool(node: Node, x: Tensor) -> Tensor:
    kernel = node.attributes["kernel_shape"]
    n = len(kernel)
    if any(d != 1 for d in node.get("dilations", [1] * n)):
        raise node.problem("dilated average pooling is not supported")
    strides, ceil = node.get("strides", [1] * n), bool(node.get("ceil_mode", 0))
    count = bool(node.get("count_include_pad", 0))
    pool = _AVG_POOL[n - 1]
    before, after = _around(node, x, kernel)
    if before == after and all(2 * p <= k for p, k in zip(before, kernel, strict=True)):
        return pool(x, kernel, strides, before, ceil, count)
    mean = pool(_pad(x, before, after), kernel, strides, 0, ceil)
    if count:
        return mean
    return mean / pool(_pad(torch.ones_like(x), before, after), kernel, strides, 0, ceil)


@operator("GlobalAveragePool")
def _global_average(_node: Node, x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def _global_max(_node: Node, x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


@operator("BatchNormalization", attributes="epsilon momentum training_mode spatial")
def _batch_norm(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    if node.get("training_mode", 0):
        raise node.problem("the model was exported in training mode; export it in eval mode")
    return functional.batch_norm(x, mean, variance, scale, bias, eps=node.get("epsilon", 1e-5))


@operator("InstanceNormalization", attributes="epsilon")
def _instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return functional.instance_norm(x, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5))


@operator("LayerNormalization", attributes="axis epsilon stash_type")
def _layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    shape = x.shape[node.get("axis", -1) :]
    normal = functional.layer_norm(x, shape, eps=node.get("epsilon", 1e-5)) * scale
    return normal if bias is None else normal + bias


@operator("GroupNormalization", attributes="epsilon num_groups stash_type")
def _group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    if node.opset < 21:  # one scale a group, withdrawn in opset 21
        raise node.problem("convert the model to opset 21 or newer")
    return functional.group_norm(
        x, node.attributes["num_groups"], scale, bias, node.get("epsilon", 1e-5)
    )


@operator("LRN", attributes="alpha beta bias size")
def _lrn(node: Node, x: Tensor) -> Tensor:
    alpha, beta, bias = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    return functional.local_response_norm(x, node.attributes["size"], alpha, beta, bias)


@operator("Dropout", attributes="ratio seed")
def _dropout(node: Node, x: Tensor, *_ratio_and_mode: Tensor | None) -> Tensor:
    if len(node.inputs) > 2 and node.inputs[2] and bool(_ratio_and_mode[1]):
        raise node.problem("the model was exported in training mode; export it in eval mode")
    return x


@operator("Softmax", "LogSoftmax", attributes="axis")
def _softmax(node: Node, x: Tensor) -> Tensor:
    function = torch.softmax if node.operator == "Softmax" else torch.log_softmax
    if node.opset >= 13:
        return function(x, dim=node.get("axis", -1))
    axis = node.get("axis", 1) % x.ndim  # opset 12 and before: over all axes from this one
    return function(x.flatten(axis), dim=-1).reshape(x.shape)


_ACTIVATIONS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "Relu": ("", lambda _n, x: x.relu()),
    "Sigmoid": ("", lambda _n, x: x.sigmoid()),
    "Softplus": ("", lambda _n, x: torch.logaddexp(x, torch.zeros_like(x))),
    "Softsign": ("", lambda _n, x: functional.softsign(x)),
    "HardSwish": ("", lambda _n, x: functional.hardswish(x)),
    "Mish": ("", lambda _n, x: functional.mish(x)),
    "PRelu": ("", lambda _n, x, slope: torch.where(x < 0, slope * x, x)),
    "LeakyRelu": ("alpha", lambda n, x: functional.leaky_relu(x, n.get("alpha", 0.01))),
    "Elu": ("alpha", lambda n, x: functional.elu(x, n.get("alpha", 1.0))),
    "Gelu": (
        "approximate",
        lambda n, x: functional.gelu(x, approximate=n.get("approximate", "none")),
    ),
    "HardSigmoid": (
        "alpha beta",
        lambda n, x: torch.clamp(n.get("alpha", 0.2) * x + n.get("beta", 0.5), 0, 1),
    ),
}
for _name, (_attributes, _activation) in _ACTIVATIONS.items():
    operator(_name, attributes=_attributes)(_activation)


@operator(
    "Resize",
    attributes="antialias coordinate_transformation_mode mode nearest_mode cubic_coeff_a "
    "exclude_outside extrapolation_value axes keep_aspect_ratio_policy",
    host=(1, 2, 3),
)
def _resize(
    node: Node,
    x: Tensor,
    _roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    if node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.problem("only keep_aspect_ratio_policy 'stretch' is supported")
    axes = [a % x.ndim for a in node.get("axes", list(range(x.ndim)))]
    for i, axis in enumerate(axes):
        before = x.shape[axis]
        if sizes is not None:
            after = integers(sizes)[i]
            scale = after / before
        else:
            assert scales is not None  # the standard asks for one of the two
            scale = float(scales[i])
            after = math.floor(before * scale)
        if after != before:
            x = _resize_axis(node, x, axis, after, scale)
    return x


def _resize_axis(node: Node, x: Tensor, axis: int, after: int, scale: float) -> Tensor:
    """One axis of a separable resize."""
    before = x.shape[axis]
    where = _coordinates(node, before, after, scale)
    if node.get("mode", "nearest") == "nearest":
        rounding: dict[str, Callable[[Tensor], Tensor]] = {
            "floor": torch.floor,
            "ceil": torch.ceil,
            "round_prefer_floor": lambda v: torch.ceil(v - 0.5),
            "round_prefer_ceil": lambda v: torch.floor(v + 0.5),
        }
        index = rounding[node.get("nearest_mode", "round_prefer_floor")](where).long()
        return x.index_select(axis, index.clamp(0, before - 1).to(x.device))
    if node.get("mode", "nearest") != "linear":
        raise node.problem("only nearest and linear resizing are supported")
    # A triangle as wide as the scale when shrinking with antialias, else one pixel to each side.
    width = min(scale, 1.0) if node.get("antialias", 0) else 1.0
    beyond = math.ceil(1 / width)
    index = torch.arange(-beyond, before + beyond)
    triangle = (1 - (index - where[:, None]).abs() * width).clamp(min=0)
    if node.get("exclude_outside", 0):
        triangle = triangle * ((index >= 0) & (index < before))
    triangle = triangle / triangle.sum(1, keepdim=True)
    # What lies past the border reads the border's own pixel.
    weights = torch.zeros(after, before, dtype=triangle.dtype)
    weights = weights.index_add(1, index.clamp(0, before - 1), triangle).to(x.device, x.dtype)
    return torch.matmul(x.movedim(axis, -1), weights.mT).movedim(-1, axis)


def _coordinates(node: Node, before: int, after: int, scale: float) -> Tensor:
    """``float64[after]``: where each output element lies on the input's axis."""
    at = torch.arange(after, dtype=torch.float64)
    mode = node.get("coordinate_transformation_mode", "half_pixel")
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and after > 1):
        return (at + 0.5) / scale - 0.5
    if mode == "asymmetric":
        return at / scale
    if mode == "align_corners" and after > 1:
        return at * (before - 1) / (after - 1)
    if mode in ("pytorch_half_pixel", "align_corners"):
        return torch.zeros(after, dtype=torch.float64)
    raise node.problem(f"coordinate_transformation_mode {mode!r} is not supported")
