"""The second stage as a part of one graph, for a server that is not ours.

An ``If`` around what ``detectors.staged_engine`` does: whoever triage picks is looked at again, and
where it picks nobody nothing runs. Views are drawn by ONNX Runtime's own generator, anew at every
look, since a graph keeps no secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.compose import add_prefix
from torch import Tensor, nn

from detectors.bundle import Bundle
from detectors.draws import BLUR, NOISE, SHIFT, ZOOM
from detectors.second_stage import INPUTS, OUTPUTS, SECOND_GRAPH, WEIGHT, SecondStage
from detectors.second_stage_fit import SecondScore
from models.export import export_onnx
from models.onnx_graph import compose

PARAMETERS = 5
"""Of a view: zoom, blur, shift down and right, level of the noise."""
PREFIX = "second/"


class DrawnViews(nn.Module):
    """Random numbers to what ``detectors.draws.draw`` makes of them: ``float32[N, 5, M]``, uniform
    from 0 to 1, and ``float32[N, M, C, h, w]``, standard normal, to the rows, columns and noise of
    M views of N images."""

    def forward(self, uniform: Tensor, normal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        zoom, blur, down, right, level = uniform.unbind(dim=1)
        zoom = 1 + ZOOM * (2 * zoom - 1)
        blur = BLUR[0] + (BLUR[1] - BLUR[0]) * blur
        height, width = normal.shape[3:]
        return (
            _axis(height, zoom, SHIFT * (2 * down - 1), blur),
            _axis(width, zoom, SHIFT * (2 * right - 1), blur),
            normal * NOISE * level[:, :, None, None, None],
        )


def _axis(size: int, zoom: Tensor, shift: Tensor, blur: Tensor) -> Tensor:
    """``detectors.draws``' of the same name, for ``[N, M]`` views at once."""
    middle, places = (size - 1) / 2, torch.arange(size, dtype=zoom.dtype)
    looks = (places - middle) / zoom[..., None] + middle + shift[..., None]
    away = places - looks.clamp(0, size - 1)[..., None]
    weights = torch.exp(-0.5 * (away / blur[..., None, None]).square())
    return weights / weights.sum(dim=-1, keepdim=True)


def judged_twice(bundle: Bundle, stage: SecondStage, name: str) -> list[onnx.NodeProto]:
    """Nodes that make ``name``, ``float32[N]``, the fused score of both stages, from the fused
    graph's ``image``, ``class_logits`` and ``fused``."""
    write = _Nodes()
    threshold = write.constant(np.float32(stage.entry.threshold))
    picks = write("GreaterOrEqual", "fused", threshold)
    rows = write("Squeeze", write("NonZero", picks), write.constant(np.array([0])))
    somebody = write("Greater", write("Size", rows), write.constant(np.array(0)))
    branches = {"then_branch": _looked_at(bundle, stage, rows), "else_branch": _let_by()}
    return [*write.nodes, helper.make_node("If", [somebody], [name], **branches)]


def _looked_at(bundle: Bundle, stage: SecondStage, rows: str) -> onnx.GraphProto:
    """``fused`` with the second stage's score added in these ``rows``."""
    entry = stage.entry
    parts = add_prefix(_looks(bundle, stage), PREFIX)
    write = _Nodes(f"{PREFIX}write")
    picked = {key: write("Gather", key, rows, axis=0) for key in ("image", "class_logits")}
    count = write("Shape", rows)
    uniform, normal = (
        write(
            operator,
            write(
                "ConstantOfShape",
                write("Concat", count, write.constant(np.array(shape)), axis=0),
            ),
        )
        for operator, shape in (
            ("RandomUniformLike", (PARAMETERS, entry.views)),
            ("RandomNormalLike", (entry.views, entry.channels, *entry.size)),
        )
    )
    feeds = {**picked, "uniform": uniform, "normal": normal}
    given = [helper.make_node("Identity", [feeds[key]], [PREFIX + key]) for key in feeds]
    after = _Nodes(f"{PREFIX}after")
    weighted = after("Mul", f"{PREFIX}score", after.constant(np.float32(WEIGHT)))
    after("ScatterElements", "fused", rows, weighted, axis=0, reduction="add")
    return _branch(
        "looked_at",
        [*write.nodes, *given, *parts.graph.node, *after.nodes],
        parts.graph.initializer,
    )


def _let_by() -> onnx.GraphProto:
    return _branch("let_by", [helper.make_node("Identity", ["fused"], [f"{PREFIX}first"])])


def _looks(bundle: Bundle, stage: SecondStage) -> onnx.ModelProto:
    """``image``, ``class_logits``, ``uniform`` and ``normal`` of some images to their ``score``."""
    views, classes = stage.entry.views, len(bundle.manifest.model.classes)
    channels, size = stage.entry.channels, stage.entry.size
    graph = onnx.load_from_string(bundle.read(SECOND_GRAPH))
    drawn = {
        "uniform": torch.rand(2, PARAMETERS, views),
        "normal": torch.randn(2, views, channels, *size),
    }
    read = {
        "plain": torch.randn(2, classes),
        "views": torch.randn(2 * views, classes),
        "change": torch.rand(2 * views),
        "aligned": torch.rand(2, 2 if stage.along.shape[1] else 0),
    }
    return compose(
        {
            "draws": onnx.load_from_string(
                export_onnx(DrawnViews(), drawn, INPUTS[1:], dict.fromkeys(drawn, (0,)))
            ),
            "stage": graph,
            "score": onnx.load_from_string(
                export_onnx(SecondScore(stage), read, ("score",), dict.fromkeys(read, (0,)))
            ),
        },
        {
            **{f"stage/{name}": f"draws/{name}" for name in INPUTS[1:]},
            "score/plain": "class_logits",
            **{
                f"score/{name}": f"stage/{output}"
                for name, output in zip(list(read)[1:], OUTPUTS, strict=True)
            },
        },
        {"score": "score/score"},
    )


class _Nodes:
    """Writes nodes, each with one output, under names that nothing else has."""

    def __init__(self, prefix: str = f"{PREFIX}triage") -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{self.prefix}/{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, value: npt.NDArray[np.generic] | np.generic) -> str:
        """The name of a new constant."""
        return self("Constant", value=numpy_helper.from_array(np.asarray(value)))


def _branch(
    name: str, nodes: Sequence[onnx.NodeProto], weights: Sequence[onnx.TensorProto] = ()
) -> onnx.GraphProto:
    """A branch whose last node makes its one output, ``float32[N]``."""
    output = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["N"])
    return helper.make_graph(nodes, name, [], [output], weights)
