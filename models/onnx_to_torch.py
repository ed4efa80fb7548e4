"""An ONNX graph as a torch module, so that an attack can follow its gradients.

A small interpreter: initialisers become frozen parameters, nodes are evaluated in the graph's
order by the functions of ``models.onnx_operators``, ``onnx_shapes`` and ``onnx_layers``. Shapes
stay dynamic, integers stay integers. Importing this module needs ``onnx``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx.checker
import onnx.inliner
import onnx.numpy_helper
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs
from torch import Tensor, nn

import models.onnx_layers
import models.onnx_shapes  # noqa: F401  (both enter their functions in the table)
from models.onnx_operators import OPERATORS, ConversionProblem, Node, Operator, Result

__all__ = ["ConversionProblem", "OnnxModule", "convert"]

_DTYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.BOOL: torch.bool,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
}
_HALVES = (torch.float16, torch.bfloat16)
_REMEMBERED, _REMEMBERED_SIZE = 512, 2**16
_CONVOLUTIONS = ("Conv", "ConvTranspose")
# Operators that take a reduced activation as it is; all others get float32 back.
_KEEP_REDUCED = {"Add", "Clip", "Concat", "Dropout", "HardSwish", "LeakyRelu", "MaxPool", "Relu"}


def convert(model: onnx.ModelProto | bytes | Path) -> OnnxModule:
    """Convert a model, in inference mode.

    Raises:
        ConversionProblem: not an ONNX model, or an operator, attribute or type without a
            counterpart; the message names the operator and the node.
    """
    return OnnxModule(_model(model))


class OnnxModule(nn.Module):
    """What ``convert`` returns: differentiable in its floating-point inputs.

    ``forward`` takes the graph's inputs in order and returns a tuple of its outputs, in order.
    Weights are parameters that need no gradient.

    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """See ``convert``."""
        super().__init__()
        self._reduced: torch.dtype | None = None
        graph = model.graph
        opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        constants = {t.name: _tensor(t, f"initialiser {t.name!r}") for t in graph.initializer}
        self._nodes: list[Node] = []
        for proto in graph.node:
            node = _node(proto, opset)
            if node.operator == "Constant":
                constants[node.outputs[0]] = _constant(node)
            else:
                _check(node)
                self._nodes.append(node)
        self.input_names = tuple(i.name for i in graph.input if i.name not in constants)
        self.output_names = tuple(o.name for o in graph.output)
        self._on_host = _on_host(self._nodes, constants)
        self._constants = constants  # host copies, for shapes and axes
        self._weights: dict[str, str] = {}
        self._register(constants)
        self.moved: dict[tuple[object, ...], Tensor] = {}
        """Host values on a device, by content. A captured CUDA graph must hold on to them."""
        self._plans: dict[tuple[str, ...], list[tuple[Node, tuple[str, ...]]]] = {}
        self.eval()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.outputs(inputs, self.output_names)

    def reduce(self, dtype: torch.dtype) -> None:
        """Compute convolutions, and what lies directly between them, in a half-precision type.
        Everything else (pooled means, matrix products, the detectors' distances, which subtract
        large numbers) stays float32."""
        self._reduced = dtype
        for node in self._nodes:
            if node.operator in _CONVOLUTIONS:
                for name in node.inputs[1:]:
                    if name in self._weights:
                        weight = getattr(self, self._weights[name])
                        weight.data = weight.data.to(dtype)

    def outputs(self, inputs: Sequence[Tensor], names: Sequence[str]) -> tuple[Tensor, ...]:
        """The named values, in that order; only the nodes that they need are evaluated."""
        if len(inputs) != len(self.input_names):
            raise ValueError(f"the graph has inputs {self.input_names}, not {len(inputs)}")
        device = inputs[0].device
        values = dict(zip(self.input_names, inputs, strict=True))
        for node, finished in self._plan(tuple(names)):
            result = self.evaluate(node, self._arguments(node, values, device))
            results = (result,) if isinstance(result, Tensor) else result
            for name, value in zip(node.outputs, results, strict=False):
                values[name] = value if name in self._on_host else self._lift(value, device)
            for name in finished:
                del values[name]
        return tuple(self._value(name, values).to(device) for name in names)

    def evaluate(self, node: Node, arguments: list[Tensor | None]) -> Result:
        """One node's outputs. A subclass may give some operators another gradient."""
        return OPERATORS[node.operator].function(node, *arguments)

    def _arguments(
        self, node: Node, values: dict[str, Tensor], device: torch.device
    ) -> list[Tensor | None]:
        operator = OPERATORS[node.operator]
        host_node = node.outputs[0] in self._on_host and node.operator not in ("Shape", "Size")
        arguments: list[Tensor | None] = []
        for i, name in enumerate(node.inputs):
            if not name:
                arguments.append(None)
            elif host_node or i in operator.host:
                value = self._constants[name] if name in self._constants else values[name]
                arguments.append(value.cpu())
            else:
                value = self._value(name, values)
                arguments.append(self._lift(value, device) if name in self._on_host else value)
        if self._reduced is not None and not host_node:
            return [self._precision(node, argument) for argument in arguments]
        return arguments

    def _lift(self, value: Tensor, device: torch.device) -> Tensor:
        """Move a host value to the device. Small ones (sizes, ranges) are remembered: a CUDA graph
        can hold no copy from pageable memory, and a second run of the same sizes makes none."""
        if value.device == device:
            return value
        if value.numel() > _REMEMBERED_SIZE or value.requires_grad:
            return value.to(device)
        if len(self.moved) >= _REMEMBERED:
            self.moved = {}  # images of ever new sizes must not fill the device
        key = (value.numpy().tobytes(), value.dtype, value.shape, device)
        if key not in self.moved:
            with torch.inference_mode(False):  # or a later gradient could not pass
                self.moved[key] = value.clone().to(device)
        return self.moved[key]

    def _precision(self, node: Node, argument: Tensor | None) -> Tensor | None:
        if argument is None or not argument.is_floating_point():
            return argument
        if node.operator in _CONVOLUTIONS:
            return argument.to(self._reduced)
        if argument.dtype in _HALVES and node.operator not in _KEEP_REDUCED:
            return argument.float()
        return argument

    def _value(self, name: str, values: dict[str, Tensor]) -> Tensor:
        if name in values:
            return values[name]
        weight: Tensor = getattr(self, self._weights[name])
        return weight

    def _register(self, constants: dict[str, Tensor]) -> None:
        for i, (name, tensor) in enumerate(constants.items()):
            self._weights[name] = f"w{i}"
            if tensor.is_floating_point():
                self.register_parameter(f"w{i}", nn.Parameter(tensor.clone(), False))
            else:
                self.register_buffer(f"w{i}", tensor.clone())

    def _plan(self, names: tuple[str, ...]) -> list[tuple[Node, tuple[str, ...]]]:
        """The nodes that these values need, each with the values that nothing reads after it."""
        if names not in self._plans:
            known = {*self.input_names, *self._constants}
            known.update(name for node in self._nodes for name in node.outputs)
            for name in names:
                if name not in known:
                    raise ConversionProblem(f"the graph has no value {name!r}")
            needed, plan = set(names), []
            kept = {*names, *self.input_names, *self._constants, ""}
            for node in reversed(self._nodes):
                if needed.isdisjoint(node.outputs):
                    continue
                last = {*node.inputs, *node.outputs} - needed - kept
                plan.append((node, tuple(last)))
                needed.update(node.inputs)
            self._plans[names] = plan[::-1]
        return self._plans[names]


def _on_host(nodes: list[Node], constants: dict[str, Tensor]) -> frozenset[str]:
    """Values computed from shapes and constants alone."""
    host: set[str] = set()
    for node in nodes:
        read = [name for name in node.inputs if name]
        if node.operator in ("Shape", "Size") or (
            OPERATORS[node.operator].shapes
            and any(name in host for name in read)
            and all(name in host or name in constants for name in read)
        ):
            host.update(node.outputs)
    return frozenset(host)


def _model(model: onnx.ModelProto | bytes | Path) -> onnx.ModelProto:
    try:
        if isinstance(model, Path):
            model = onnx.load(model)
        elif isinstance(model, bytes):
            model = onnx.load_from_string(model)
        if not model.graph.node:
            raise ConversionProblem("the file holds no ONNX graph; export the model again")
        onnx.checker.check_model(model)
        return onnx.inliner.inline_local_functions(model) if model.functions else model
    except (DecodeError, OSError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConversionProblem(f"not a valid ONNX model: {reason}; export it again") from None


def _node(proto: onnx.NodeProto, opset: int) -> Node:
    name = proto.name or next(iter(proto.output), "")
    bare = Node(name, proto.op_type, opset, tuple(proto.input), tuple(proto.output), {})
    if proto.domain not in ("", "ai.onnx"):
        raise bare.problem(f"operators of {proto.domain!r} are not supported")
    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, onnx.TensorProto):
            value = _tensor(value, f"{bare.operator} (node {name!r})")
        elif isinstance(value, onnx.GraphProto):
            raise bare.problem("control flow is not supported")
        elif attribute.name == "to":
            if value not in _DTYPES:
                raise bare.problem(
                    f"type {onnx.TensorProto.DataType.Name(value)} has no torch type"
                )
            value = _DTYPES[value]
        elif not isinstance(value, int | float):
            value = list(value)
        attributes[attribute.name] = value
    return Node(name, proto.op_type, opset, bare.inputs, bare.outputs, attributes)


def _check(node: Node) -> None:
    operator: Operator | None = OPERATORS.get(node.operator)
    if operator is None:
        raise node.problem("this operator is not supported")
    unknown = set(node.attributes) - operator.attributes
    if unknown:
        raise node.problem(f"attribute {min(unknown)} is not supported")
    if any(node.outputs[operator.outputs :]):
        raise node.problem(f"only its first {operator.outputs} output(s) are supported")


def _constant(node: Node) -> Tensor:
    name, value = next(iter(node.attributes.items()))
    if isinstance(value, Tensor):
        return value
    if name not in ("value_int", "value_ints", "value_float", "value_floats"):
        raise node.problem(f"a constant of kind {name} is not supported")
    return torch.tensor(value, dtype=torch.int64 if "int" in name else torch.float32)


def _tensor(proto: onnx.TensorProto, owner: str) -> Tensor:
    if proto.data_type not in _DTYPES:
        kind = onnx.TensorProto.DataType.Name(proto.data_type)
        raise ConversionProblem(f"{owner}: type {kind} has no torch type")
    array = onnx.numpy_helper.to_array(proto)
    if proto.data_type == onnx.TensorProto.BFLOAT16:
        return torch.from_numpy(array.view("int16").copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())
