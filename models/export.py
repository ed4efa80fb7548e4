"""Torch modules to ONNX graphs, weights inside."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from models.diagnostic import DiagnosticModel
from models.head import probabilities

OPSET = 20


class BareModel(nn.Module):
    """The diagnostic model without a guard: pixels to raw logits and probabilities."""

    def __init__(self, model: DiagnosticModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model.network(self.model.preprocess(image))
        return logits, probabilities(logits, self.model.spec.head)


def example_pixels() -> Tensor:
    """``uint8[2, 300, 400, 3]``: no two axes alike, so that tracing keeps each of them apart."""
    return torch.zeros(2, 300, 400, 3, dtype=torch.uint8)


IMAGE_AXES = (0, 1, 2, 3)


def export_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: tuple[str, ...],
    dynamic: Mapping[str, tuple[int, ...]],
) -> bytes:
    """Trace ``module`` on ``inputs`` (by argument name) and return the ONNX file.

    Args:
        outputs: names for the module's outputs, in order.
        dynamic: per input, the axes whose size is not fixed.
    """
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes={
                name: dict.fromkeys(dynamic.get(name, ()), torch.export.Dim.DYNAMIC)
                for name in inputs
            },
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return _without_notes(_pooling(program.model_proto))


def export_program(program: torch.export.ExportedProgram) -> bytes:
    """A ``torch.export`` program as an ONNX file, with the program's own shapes."""
    with _quiet():
        exported = torch.onnx.export(program, opset_version=OPSET, dynamo=True, verbose=False)
    assert exported is not None
    return _without_notes(_pooling(exported.model_proto))


def _pooling(model: onnx.ModelProto) -> onnx.ModelProto:
    """With means over an image's positions said as GlobalAveragePool. ONNX Runtime runs that on the
    blocked layout in which its convolutions leave their results; for a ReduceMean it first puts
    the whole activation back in order, which costs more than the mean."""
    graph = model.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*graph.value_info, *graph.input)}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        keeps = {a.name: a.i for a in node.attribute}.get("keepdims", 1)
        if (
            node.op_type == "ReduceMean"
            and len(node.input) == 2
            and ranks.get(node.input[0]) == 4
            and node.input[1] in constants
            and sorted(constants[node.input[1]].ravel() % 4) == [2, 3]
        ):
            mean = node.output[0] if keeps else f"{node.output[0]}_positions"
            nodes.append(
                helper.make_node("GlobalAveragePool", [node.input[0]], [mean], f"{node.name}_pool")
            )
            if not keeps:
                nodes.append(
                    helper.make_node("Flatten", [mean], [node.output[0]], node.name, axis=1)
                )
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(_joined_before(nodes, {value.name for value in graph.output}))
    return model


def _joined_before(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """With pooled activations joined before they are flattened, again on the blocked layout: one
    copy back into order in place of one each."""
    pooled = {
        node.output[0]: node.input[0]
        for node in nodes
        if node.op_type == "Flatten" and node.input[0] == f"{node.output[0]}_positions"
    }
    result = []
    for node in nodes:
        values = list(node.input)
        run = len(list(itertools.takewhile(pooled.__contains__, values)))
        if node.op_type != "Concat" or node.attribute[0].i != 1 or run < 2:
            result.append(node)
            continue
        name = node.name
        result += [
            helper.make_node(
                "Concat", [pooled[v] for v in values[:run]], [f"{name}_positions"],
                f"{name}_pooled", axis=1,
            ),
            helper.make_node(
                "Flatten", [f"{name}_positions"], [f"{name}_flat"], f"{name}_flatten", axis=1
            ),
            helper.make_node("Concat", [f"{name}_flat", *values[run:]], node.output, name, axis=1),
        ]  # fmt: skip
    used = outputs | {value for node in result for value in node.input}
    return [node for node in result if node.output[0] not in pooled or node.output[0] in used]


def _without_notes(model: onnx.ModelProto) -> bytes:
    """The exporter notes stack traces beside every node: they name this machine's folders, and make
    the digest of one model differ from machine to machine."""
    graph = model.graph
    for part in (
        model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info,
        *graph.initializer,
    ):  # fmt: skip
        del part.metadata_props[:]
        part.doc_string = ""
    content: bytes = model.SerializeToString()
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about an absent torchvision at every call."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def export_bare(model: DiagnosticModel) -> bytes:
    """The graph ``image -> logits, probabilities``."""
    return export_onnx(
        BareModel(model),
        {"image": example_pixels()},
        ("logits", "probabilities"),
        {"image": IMAGE_AXES},
    )
