"""Operations on the graph of a diagnostic model known only as ONNX: taps, batch, composition.

Such a model has one input ``float32[N, C, h, w]`` and its raw logits ``[N, L]`` as first output.
Importing this module needs ``onnx``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnx.checker
import onnx.inliner
import onnxruntime as ort
from onnx import TensorProto, helper, version_converter
from onnx import compose as onnx_compose

from models.taps import STAGES

# For a graph that leaves the size of its input open; the usual input of image classifiers.
_USUAL_SIDE = 224
_BATCH = "N"
# What changes an image-like value without making it something else (tokens, attention heads).
_SPATIAL = frozenset(
    [
        *("Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "Div", "Dropout"),
        *("Elu", "Erf", "Gelu", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity"),
        *("InstanceNormalization", "LRN", "LeakyRelu", "MaxPool", "Mish", "Mul", "PRelu", "Pad"),
        *("Relu", "Resize", "Selu", "Sigmoid", "Slice", "Softplus", "Split", "Sub", "Tanh"),
    ]
)


class GraphProblem(ValueError):
    """A graph that cannot be guarded as it is. The message says why and what to do."""


def automatic_taps(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the activations to tap, in network order: at each of the last four spatial
    resolutions the value computed last (a residual stage's output), then the penultimate layer,
    the input of the last linear one. In a transformer, which has one resolution, four residual
    sums at equal distances stand for the stages.

    Raises ``GraphProblem`` when there is nothing to tap.
    """
    shapes = activation_shapes(model)
    constants = _constants(model)
    images = {_image(model).name}
    by_resolution: dict[tuple[int, ...], str] = {}
    sums: list[str] = []
    penultimate: list[str] = []
    for node in model.graph.node:
        output = node.output[0]
        shape = shapes.get(output, ())
        if node.op_type in _SPATIAL and not images.isdisjoint(node.input) and len(shape) == 4:
            images.add(output)
            size = shape[2:]
            if all(side > 0 for side in size) and size != (1, 1):
                by_resolution[size] = output
        if node.op_type == "Add" and len(shape) == 3 and constants.isdisjoint(node.input):
            sums.append(output)
        if node.op_type in ("Gemm", "MatMul") and node.input[1] in constants:
            penultimate = [node.input[0]]
    stages = list(by_resolution.values())[-STAGES:]
    if len(stages) < 2 and sums:
        stages = [sums[round(i * (len(sums) - 1) / (STAGES - 1))] for i in range(STAGES)]
    if not stages and not penultimate:
        raise GraphProblem(
            "found no spatial activation and no linear layer to tap; name activations in `taps` "
            "of model.json (a viewer such as Netron shows them)"
        )
    order = {name: i for i, node in enumerate(model.graph.node) for name in node.output}
    return tuple(sorted({*stages, *penultimate}, key=lambda name: order.get(name, -1)))


def with_taps(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy whose outputs are the logits and then ``float32[N, d]`` for each activation: images
    are averaged over their positions, token sequences over their tokens.

    Raises ``GraphProblem`` for a name that the graph has not, or one of another rank.
    """
    shapes = activation_shapes(model)
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    graph = tapped.graph
    del graph.output[1:]
    for name in names:
        if name not in shapes:
            raise GraphProblem(f"the graph has no activation {name!r} whose shape is known")
        rank = len(shapes[name])
        if rank not in (2, 3, 4):
            raise GraphProblem(f"activation {name!r} has {rank} axes; a tap has 2, 3 or 4")
        output = f"{name}/pooled"
        if rank == 2:
            graph.node.append(helper.make_node("Identity", [name], [output], name=output))
        else:
            axes = [2, 3] if rank == 4 else [1]
            _append_mean(tapped, name, output, axes)
        width = shapes[name][2 if rank == 3 else 1]
        shape: list[int | str | None] = [_BATCH, width if width > 0 else None]
        graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, shape))
    _check(tapped, "the graph with taps")
    return tapped


def make_batch_dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that takes any number of images; the model itself when it already does.

    A model exported for a batch of one often has that one in its reshapes as well. They are
    changed to keep their input's first axis, and the result is tried: two images together must
    give what each gives alone.

    Raises ``GraphProblem`` when they do not.
    """
    image = _image(model)
    fixed = image.type.tensor_type.shape.dim[0].dim_value
    if fixed == 0:
        return model
    dynamic = onnx.ModelProto()
    dynamic.CopyFrom(model)
    graph = dynamic.graph
    for value in (_image(dynamic), *graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = _BATCH
    del graph.value_info[:]
    _free_reshapes(graph, fixed)
    if not _rows_are_independent(dynamic):
        raise GraphProblem(
            f"the model was exported for batches of {fixed} and cannot be made to take others; "
            "export it again with a dynamic batch axis"
        )
    return dynamic


def compose(
    parts: Mapping[str, onnx.ModelProto],
    connections: Mapping[str, str],
    outputs: Mapping[str, str],
) -> onnx.ModelProto:
    """Join graphs into one. A value ``v`` of the part ``p`` is called ``p/v``.

    Args:
        parts: the graphs by name, each after those that it reads from.
        connections: for a part's input (``"detectors/taps"``) the value that feeds it
            (``"model/taps"``) or, without a slash, an input of the result. An input that is not
            named here is an input of the result by its own name.
        outputs: the result's outputs in order: name to value.

    Raises ``GraphProblem`` when a value is missing or the operator sets cannot be reconciled.
    """
    opset = max(_opset(part) for part in parts.values())
    joined = helper.make_model(helper.make_graph([], "fused", [], []))
    del joined.opset_import[:]
    joined.ir_version = max(part.ir_version for part in parts.values())
    graph = joined.graph
    types: dict[str, onnx.ValueInfoProto] = {}
    known: set[str] = set()
    for name, part in parts.items():
        part = _prefixed(name, part, opset)
        _merge_opsets(joined, part)
        initialised = {tensor.name for tensor in part.graph.initializer}
        for value in part.graph.input:
            if value.name in initialised:
                continue
            own = value.name.removeprefix(f"{name}/")
            source = connections.get(value.name, own)
            if "/" not in source:
                if source not in {known_input.name for known_input in graph.input}:
                    graph.input.append(_named(source, value))
            elif source not in known:
                raise GraphProblem(f"{value.name} is to read {source}, which no part before gives")
            graph.node.append(helper.make_node("Identity", [source], [value.name]))
        graph.node.extend(part.graph.node)
        graph.initializer.extend(part.graph.initializer)
        known |= initialised | {v for node in part.graph.node for v in node.output}
        known |= {value.name for value in part.graph.input}
        types |= {value.name: value for value in (*part.graph.input, *part.graph.output)}
    made = {value for node in graph.node for value in node.output}
    names: dict[str, str] = {}
    for output, source in outputs.items():
        if source not in types or source not in known:
            raise GraphProblem(f"output {output} is to be {source}, which no part gives")
        if source in made and source not in names:
            names[source] = output
        else:
            graph.node.append(helper.make_node("Identity", [source], [output]))
        graph.output.append(_named(output, types[source]))
    _rename(graph, names)
    _prune(graph)
    _check(joined, "the joined graph")
    return joined


def _prune(graph: onnx.GraphProto) -> None:
    """Without what no output needs: ONNX Runtime would compute it."""
    needed = {output.name for output in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output):
            continue
        nodes.append(node)
        needed |= set(node.input) | _captured(node)
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def _captured(node: onnx.NodeProto) -> set[str]:
    """Values of the graph that the node's own subgraphs read."""
    return {
        value
        for attribute in node.attribute
        for inner in (attribute.g, *attribute.graphs)
        for inside in inner.node
        for value in (*inside.input, *_captured(inside))
    } | {o.name for a in node.attribute for inner in (a.g, *a.graphs) for o in inner.output}


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Call values otherwise, wherever nodes make or read them: an Identity to a graph's output is
    one that no runtime can remove."""
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
        for attribute in node.attribute:  # the bodies of branches and loops read them too
            for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
                _rename(body, names)


def _image(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        found = ", ".join(value.name for value in inputs) or "none"
        raise GraphProblem(f"a diagnostic model has one float32 input [N, C, h, w], not {found}")
    if len(inputs[0].type.tensor_type.shape.dim) != 4:
        raise GraphProblem(f"the input {inputs[0].name!r} must have four axes, [N, C, h, w]")
    image: onnx.ValueInfoProto = inputs[0]
    return image


def _constants(model: onnx.ModelProto) -> set[str]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return weights | {n.output[0] for n in model.graph.node if n.op_type == "Constant"}


def activation_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of float32 activations; 0 for an axis whose size is not known."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    for dim in _image(sized).type.tensor_type.shape.dim[2:]:
        if not dim.dim_value:
            dim.dim_value = _USUAL_SIDE
    del sized.graph.value_info[:]  # an exporter's own may hold the symbols just replaced
    graph = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    weights = {tensor.name for tensor in graph.initializer}
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name not in weights
    }


def _append_mean(model: onnx.ModelProto, name: str, output: str, axes: list[int]) -> None:
    if _opset(model) < 18:  # axes became an input
        node = helper.make_node("ReduceMean", [name], [output], output, axes=axes, keepdims=0)
    else:
        which = f"{output}/axes"
        model.graph.initializer.append(
            helper.make_tensor(which, TensorProto.INT64, [len(axes)], axes)
        )
        node = helper.make_node("ReduceMean", [name, which], [output], output, keepdims=0)
    model.graph.node.append(node)


def _free_reshapes(graph: onnx.GraphProto, fixed: int) -> None:
    """Reshapes to a constant shape that begins with the batch copy their input's first axis."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    for node in list(graph.node):
        if node.op_type != "Reshape" or node.input[1] not in tensors:
            continue
        shape = onnx.numpy_helper.to_array(tensors[node.input[1]]).copy()
        if shape.size > 1 and shape[0] == fixed and shape[1:].all():
            shape[0] = 0  # which copies the axis, unless allowzero makes it a zero
            for attribute in node.attribute:
                if attribute.name == "allowzero":
                    attribute.i = 0
            own = f"{node.output[0]}/shape"
            graph.initializer.append(onnx.numpy_helper.from_array(shape, own))
            node.input[1] = own


def _rows_are_independent(model: onnx.ModelProto) -> bool:
    dims = _image(model).type.tensor_type.shape.dim[1:]
    shape = [d.dim_value or (3 if i == 0 else _USUAL_SIDE) for i, d in enumerate(dims)]
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        name = session.get_inputs()[0].name
        both = session.run(None, {name: x})
        alone = [session.run(None, {name: x[i : i + 1]}) for i in range(2)]
    except Exception:  # the runtime's own errors have no common base
        return False
    return all(
        len(together) == 2 and np.allclose(together, np.concatenate(rows), rtol=1e-3, atol=1e-4)
        for together, *rows in zip(both, *alone, strict=True)
    )


def _opset(model: onnx.ModelProto) -> int:
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)


def _prefixed(name: str, part: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    if part.functions:
        part = onnx.inliner.inline_local_functions(part)
    if _opset(part) != opset:
        try:
            part = version_converter.convert_version(part, opset)
        except Exception as error:  # the converter raises bare RuntimeError and its own
            raise GraphProblem(
                f"{name} is for opset {_opset(part)} and cannot be converted to {opset} "
                f"({str(error).splitlines()[0]}); export it again for opset {opset}"
            ) from error
    return onnx_compose.add_prefix(part, f"{name}/")


def _merge_opsets(joined: onnx.ModelProto, part: onnx.ModelProto) -> None:
    versions = {o.domain: o.version for o in joined.opset_import}
    for wanted in part.opset_import:
        have = versions.get(wanted.domain)
        if have is None:
            joined.opset_import.append(wanted)
        elif have != wanted.version:
            raise GraphProblem(
                f"the parts use versions {have} and {wanted.version} of {wanted.domain!r}; export "
                "them with the same one"
            )


def _named(name: str, value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """The same type under another name. Symbols of axes go: parts use them for different sizes."""
    tensor = value.type.tensor_type
    shape = [dim.dim_value or None for dim in tensor.shape.dim]
    return helper.make_tensor_value_info(name, tensor.elem_type, shape)


def _check(model: onnx.ModelProto, what: str) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker and the shape inference have no common base
        raise GraphProblem(f"{what} is not valid: {str(error).splitlines()[0]}") from error
