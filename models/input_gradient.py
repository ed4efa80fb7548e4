"""The gradient of a network's logits in its input, as a graph: reverse accumulation over ONNX.

Runtimes for inference have no gradients. This writes them with the operators that they do have, so
that a guard can look along the model's own gradient where the model is served. Importing this
module needs ``onnx``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.onnx_graph import activation_shapes

SEED, GRADIENT = "seed", "gradient"
_OPSET = 20


class GradientProblem(ValueError):
    """A network whose gradient cannot be written. The message names the operator and the node."""


def input_gradient(network: onnx.ModelProto, *, rows: bool = False) -> onnx.ModelProto:
    """The graph ``seed`` to ``gradient``, a vector-Jacobian product.

    Args:
        network: ``float32[M, C, h, w]`` to raw logits ``[M, L]``, its first output, with fixed C,
            h and w, in inference mode.
        rows: the activations may have more rows than the seed, whose N are the first of them.

    Returns:
        A graph with the input ``seed float32[N, L]``, the output ``gradient float32[N, C, h, w]``
        (``seed . d logits / d input``, row by row) and, by their names in the network, those of its
        activations that the derivatives need.

    Raises ``GradientProblem`` for an operator without a rule here.
    """
    writer = _Writer(network, rows)
    weights = set(writer.constants)
    (image,) = (v.name for v in network.graph.input if v.name not in weights)
    logits = network.graph.output[0].name
    moved = {image}  # what depends on the image
    for node in network.graph.node:
        if not moved.isdisjoint(node.input):
            moved.update(node.output)
    parts: defaultdict[str, list[str]] = defaultdict(list)
    parts[logits].append(SEED)
    for node in reversed(network.graph.node):
        value = node.output[0]
        if value not in moved or not parts[value]:
            continue
        whole = writer.sum(parts[value])
        if node.op_type not in _RULES:
            raise GradientProblem(
                f"no gradient is known of the operator {node.op_type} ({node.name or value})"
            )
        for index, gradient in _RULES[node.op_type](writer, node, whole):
            if node.input[index] in moved:
                parts[node.input[index]].append(gradient)
    if not parts[image]:
        raise GradientProblem("the logits do not depend on the image")
    writer.nodes.append(helper.make_node("Identity", [writer.sum(parts[image])], [GRADIENT]))
    return writer.model(logits, image)


Rule = Callable[["_Writer", onnx.NodeProto, str], Iterator[tuple[int, str]]]
"""From a node and the gradient of its output to pairs: an input's place and its gradient."""
_RULES: dict[str, Rule] = {}


class _Writer:
    """The nodes written so far."""

    def __init__(self, network: onnx.ModelProto, rows: bool) -> None:
        self.shapes = activation_shapes(network)
        self.constants = {t.name: numpy_helper.to_array(t) for t in network.graph.initializer}
        for node in network.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        for name in self.constants:  # shape inference lists those that nodes make
            self.shapes.pop(name, None)
        self.nodes: list[onnx.NodeProto] = []
        self._rows = rows
        self._weights: list[onnx.TensorProto] = []
        self._read: dict[str, str] = {}
        self._count = ""

    def write(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """One node with one output; its name."""
        return self.write_several(operator, 1, *inputs, **attributes)[0]

    def write_several(
        self, operator: str, outputs: int, *inputs: str, **attributes: Any
    ) -> list[str]:
        """One node; the names of its outputs."""
        names = [f"{len(self.nodes)}_{i}" for i in range(outputs)]
        node = helper.make_node(operator, list(inputs), names, f"n{len(self.nodes)}", **attributes)
        self.nodes.append(node)
        return names

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """The name of a new initialiser."""
        name = f"c{len(self._weights)}"
        array = np.ascontiguousarray(np.asarray(value, dtype))
        self._weights.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, node: onnx.NodeProto, place: int) -> npt.NDArray[np.float32]:
        """An input of the network's node that must not depend on the image."""
        name = node.input[place]
        if name not in self.constants:
            raise problem(node, f"input {place} is computed")
        return self.constants[name].astype(np.float32)

    def kept(self, value: str) -> str:
        """An activation of the network, of the seed's rows alone."""
        if value in self._read:
            return self._read[value]
        self._read[value] = value
        if self._rows:
            zero, axis = self.constant([0], np.int64), self.constant([0], np.int64)
            self._read[value] = self.write("Slice", value, zero, self._rows_of_seed(), axis)
        return self._read[value]

    def size(self, value: str, node: onnx.NodeProto) -> tuple[int, ...]:
        """An activation's shape but for its rows, every axis known."""
        shape = self.shapes.get(value, ())[1:]
        if not shape or not all(shape):
            raise problem(node, f"the size of {value} is not fixed")
        return shape

    def sum(self, parts: list[str]) -> str:
        """Of gradients that meet in one value."""
        total = parts[0]
        for part in parts[1:]:
            total = self.write("Add", total, part)
        return total

    def reshaped(self, gradient: str, size: tuple[int, ...]) -> str:
        """To ``[N, *size]``."""
        return self.write("Reshape", gradient, self.constant([-1, *size], np.int64))

    def summed_to(self, gradient: str, size: tuple[int, ...], value: str) -> str:
        """The sum over the axes along which an input ``value`` of a ``size`` was repeated."""
        own = self.shapes[value][1:]
        if len(own) != len(size):
            raise GradientProblem(f"{value} and its partner have not as many axes")
        axes = [1 + i for i, (a, b) in enumerate(zip(own, size, strict=True)) if a != b]
        if not axes:
            return gradient
        return self.write("ReduceSum", gradient, self.constant(axes, np.int64), keepdims=1)

    def masked(self, gradient: str, value: str, operator: str, bound: str) -> str:
        """The gradient where a value is above or below a bound. A product: ONNX Runtime is many
        times slower to choose between an array and a number."""
        inside = self.write(operator, value, bound)
        return self.write("Mul", gradient, self.write("Cast", inside, to=TensorProto.FLOAT))

    def model(self, logits: str, image: str) -> onnx.ModelProto:
        """The whole."""

        def value(name: str, of: str) -> onnx.ValueInfoProto:
            shape = ["M" if name != SEED else "N", *(d or None for d in self.shapes[of][1:])]
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        read = [value(name, name) for name in self._read]
        graph = helper.make_graph(
            self.nodes,
            "gradient",
            [value(SEED, logits), *read],
            [value(GRADIENT, image)],
            self._weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])

    def _rows_of_seed(self) -> str:
        if not self._count:
            self._count = self.write("Shape", SEED, start=0, end=1)
        return self._count


def problem(node: onnx.NodeProto, what: str) -> GradientProblem:
    """Of one node."""
    return GradientProblem(f"{node.op_type} ({node.name or node.output[0]}): {what}")


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Enter a rule in the table under the operators' names."""

    def enter(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(operators, function))
        return function

    return enter


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _window(node: onnx.NodeProto, kernel: tuple[int, ...]) -> tuple[list[int], ...]:
    """Strides, dilations, padding before and after."""
    given, n = _attributes(node), len(kernel)
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or given.get("ceil_mode"):
        raise problem(node, "padding that is worked out from the size")
    pads = given.get("pads", [0] * 2 * n)
    strides, dilations = given.get("strides", [1] * n), given.get("dilations", [1] * n)
    return strides, dilations, pads[:n], pads[n:]


def _transposed(
    writer: _Writer, node: onnx.NodeProto, gradient: str, weight: npt.NDArray[np.float32],
    group: int,
) -> str:  # fmt: skip
    """The transpose of a convolution with ``weight [O, I / group, kh, kw]``."""
    kernel = weight.shape[2:]
    strides, dilations, before, after = _window(node, kernel)
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    around = [r - p for r, p in zip([*reach, *reach], [*before, *after], strict=True)]
    if set(strides) == {1} and min(around) >= 0:
        outputs, inputs = weight.shape[0] // group, weight.shape[1]
        turned = weight.reshape(group, outputs, inputs, *kernel).swapaxes(1, 2)[..., ::-1, ::-1]
        return writer.write(
            "Conv", gradient, writer.constant(turned.reshape(group * inputs, outputs, *kernel)),
            group=group, pads=around, dilations=dilations, kernel_shape=list(kernel),
            strides=strides,
        )  # fmt: skip
    if before != after:
        raise problem(node, "strides and uneven padding")
    inside = writer.size(node.input[0], node)[1:]
    outside = writer.size(node.output[0], node)[1:]
    rest = [
        size - ((out - 1) * stride + r + 1 - 2 * p)
        for size, out, stride, r, p in zip(inside, outside, strides, reach, before, strict=True)
    ]
    return writer.write(
        "ConvTranspose", gradient, writer.constant(weight), group=group, pads=[*before, *after],
        strides=strides, dilations=dilations, kernel_shape=list(kernel), output_padding=rest,
    )  # fmt: skip


@rule("Conv")
def _conv(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    weight = writer.weight(node, 1)
    if weight.ndim != 4:
        raise problem(node, "not of images")
    group = _attributes(node).get("group", 1)
    yield 0, _transposed(writer, node, gradient, weight, group)


@rule("AveragePool")
def _average_pool(
    writer: _Writer, node: onnx.NodeProto, gradient: str
) -> Iterator[tuple[int, str]]:
    given = _attributes(node)
    kernel = given["kernel_shape"]
    _, _, before, after = _window(node, tuple(kernel))
    if any((*before, *after)) and not given.get("count_include_pad"):
        raise problem(node, "means at an edge of fewer values")
    channels = writer.size(node.input[0], node)[0]
    mean = np.full((channels, 1, *kernel), 1 / prod(kernel), np.float32)
    yield 0, _transposed(writer, node, gradient, mean, channels)


@rule("MaxPool")
def _max_pool(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    given = _attributes(node)
    x = writer.kept(node.input[0])
    _, places = writer.write_several("MaxPool", 2, x, **given)
    flat = writer.constant([-1], np.int64)
    shape = writer.write("Shape", x)
    # not ConstantOfShape, whose zeros would be made on the host and copied at every run on a GPU
    zero = writer.constant(0.0)
    nothing = writer.write("Clip", x, zero, zero)
    spread = writer.write(
        "ScatterElements",
        writer.write("Reshape", nothing, flat),
        writer.write("Reshape", places, flat),
        writer.write("Reshape", gradient, flat),
        axis=0,
        reduction="add",
    )
    yield 0, writer.write("Reshape", spread, shape)


@rule("GlobalAveragePool")
def _global_average_pool(
    writer: _Writer, node: onnx.NodeProto, gradient: str
) -> Iterator[tuple[int, str]]:
    channels, *positions = writer.size(node.input[0], node)
    share = writer.write("Mul", gradient, writer.constant(1 / prod(positions)))
    yield 0, writer.write("Expand", share, writer.constant([1, channels, *positions], np.int64))


@rule("ReduceMean")
def _mean(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    given = _attributes(node)
    size = writer.size(node.input[0], node)
    axes = given.get("axes") or (
        writer.constants[node.input[1]].tolist() if len(node.input) > 1 else None
    )
    if not axes:
        raise problem(node, "over all axes")
    over = {axis % (len(size) + 1) for axis in axes}
    if 0 in over:
        raise problem(node, "over the batch")
    kept = tuple(1 if 1 + i in over else side for i, side in enumerate(size))
    count = prod(size[axis - 1] for axis in over)
    share = writer.write("Mul", writer.reshaped(gradient, kept), writer.constant(1 / count))
    yield 0, writer.write("Expand", share, writer.constant([1, *size], np.int64))


@rule("Relu")
def _relu(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    y = writer.kept(node.output[0])
    yield 0, writer.masked(gradient, y, "Greater", writer.constant(0.0))


@rule("LeakyRelu")
def _leaky_relu(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    active = writer.write("Greater", writer.kept(node.input[0]), writer.constant(0.0))
    slope = writer.constant(_attributes(node).get("alpha", 0.01))
    yield 0, writer.write("Where", active, gradient, writer.write("Mul", gradient, slope))


@rule("Clip")
def _clip(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    x = writer.kept(node.input[0])
    for operator, place in (("Greater", 1), ("Less", 2)):
        if len(node.input) > place and node.input[place]:
            bound = writer.constant(writer.weight(node, place))
            gradient = writer.masked(gradient, x, operator, bound)
    yield 0, gradient


@rule("Sigmoid")
def _sigmoid(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    y = writer.kept(node.output[0])
    slope = writer.write("Sub", y, writer.write("Mul", y, y))
    yield 0, writer.write("Mul", gradient, slope)


@rule("Tanh")
def _tanh(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    y = writer.kept(node.output[0])
    slope = writer.write("Sub", writer.constant(1.0), writer.write("Mul", y, y))
    yield 0, writer.write("Mul", gradient, slope)


@rule("HardSwish")
def _hard_swish(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    x = writer.kept(node.input[0])
    line = writer.write("Mul", writer.write("Add", x, writer.constant(1.5)), writer.constant(1 / 3))
    above = writer.write("Where", writer.write("Less", x, writer.constant(3.0)), line,
                         writer.constant(1.0))  # fmt: skip
    slope = writer.write("Where", writer.write("Greater", x, writer.constant(-3.0)), above,
                         writer.constant(0.0))  # fmt: skip
    yield 0, writer.write("Mul", gradient, slope)


@rule("HardSigmoid")
def _hard_sigmoid(
    writer: _Writer, node: onnx.NodeProto, gradient: str
) -> Iterator[tuple[int, str]]:
    y = writer.kept(node.output[0])
    slope = writer.constant(_attributes(node).get("alpha", 0.2))
    for operator, bound in (("Greater", 0.0), ("Less", 1.0)):
        gradient = writer.masked(gradient, y, operator, writer.constant(bound))
    yield 0, writer.write("Mul", gradient, slope)


@rule("Add", "Sub")
def _add(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    size = writer.size(node.output[0], node)
    for place in (0, 1):
        if node.input[place] in writer.shapes:
            minus = place == 1 and node.op_type == "Sub"
            signed = writer.write("Neg", gradient) if minus else gradient
            yield place, writer.summed_to(signed, size, node.input[place])


@rule("Mul")
def _mul(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    size = writer.size(node.output[0], node)
    for place in (0, 1):
        own, other = node.input[place], node.input[1 - place]
        if own in writer.shapes:
            known = other in writer.constants
            factor = writer.constant(writer.constants[other]) if known else writer.kept(other)
            yield place, writer.summed_to(writer.write("Mul", gradient, factor), size, own)


@rule("Div")
def _div(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    yield 0, writer.write("Div", gradient, writer.constant(writer.weight(node, 1)))


@rule("BatchNormalization")
def _normalise(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    epsilon = _attributes(node).get("epsilon", 1e-5)
    scale = writer.weight(node, 1) / np.sqrt(writer.weight(node, 4) + epsilon)
    yield 0, writer.write("Mul", gradient, writer.constant(scale[:, None, None]))


@rule("Gemm")
def _gemm(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    given = _attributes(node)
    if given.get("transA"):
        raise problem(node, "of the transpose")
    weight = writer.weight(node, 1)
    turned = weight if given.get("transB") else weight.T
    alpha = given.get("alpha", 1.0)
    yield 0, writer.write("MatMul", gradient, writer.constant(alpha * turned))


@rule("MatMul")
def _matmul(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    weight = writer.weight(node, 1)
    yield 0, writer.write("MatMul", gradient, writer.constant(np.swapaxes(weight, -1, -2)))


@rule("Concat")
def _concat(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    axis = _attributes(node)["axis"]
    axis %= len(writer.shapes[node.output[0]])
    start = 0
    along = writer.constant([axis], np.int64)
    for place, value in enumerate(node.input):
        end = start + writer.size(value, node)[axis - 1]
        bounds = writer.constant([start], np.int64), writer.constant([end], np.int64)
        if value in writer.shapes:
            yield place, writer.write("Slice", gradient, *bounds, along)
        start = end


@rule("Flatten", "Reshape", "Squeeze", "Unsqueeze")
def _reshape(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    yield 0, writer.reshaped(gradient, writer.size(node.input[0], node))


@rule("Identity", "Dropout")
def _same(_writer: _Writer, _node: onnx.NodeProto, gradient: str) -> Iterator[tuple[int, str]]:
    yield 0, gradient
