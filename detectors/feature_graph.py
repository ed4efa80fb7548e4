"""The first part of the fused graph: pixels to logits, taps and the squeezed view's logits."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from detectors.picture import Picture
from detectors.side_networks import SideNetworks
from detectors.squeeze import root_mean_square, squeeze
from models.diagnostic import DiagnosticModel
from models.export import IMAGE_AXES, OPSET, example_pixels, export_onnx
from models.head import class_logits, probabilities
from models.load import OnnxModel
from models.onnx_graph import compose
from models.preprocess import Preprocess
from models.spec import Head

OUTPUTS = (
    "logits",
    "probabilities",
    "taps",
    "class_logits",
    "squeezed_logits",
    "squeeze_change",
    "witness_logits",
    "residual",
    "picture",
    "grain",
)
_BEFORE = OUTPUTS[5:]
"""Made from the network's input, beside the network."""


class _Views(nn.Module):
    """Pixels to the network's input, followed by its squeezed view in one doubled batch; how far
    squeezing moved the pixels; what the networks beside say of the input; and the picture's own
    statistics."""

    def __init__(
        self, preprocess: Preprocess, squeezed: bool, beside: SideNetworks, grain: bool
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.squeezed = squeezed
        self.grain = grain
        self.beside = beside
        self.picture = Picture(preprocess)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.preprocess(image)
        picture, grain = self.picture(x, image)
        nothing = picture[:, :0]
        witness, residual = self.beside(x) if self.beside.present else (nothing, nothing)
        seen = witness, residual, picture, grain if self.grain else nothing
        if not self.squeezed:
            return x, x.new_zeros(x.shape[0]), *seen
        view = squeeze(x, self.preprocess.gain)
        return torch.cat([x, view]), root_mean_square(view - x), *seen


class _Outputs(nn.Module):
    """From the network's logits and joined taps of all views to the feature graph's outputs."""

    def __init__(self, head: Head, squeezed: bool) -> None:
        super().__init__()
        self.head = head
        self.squeezed = squeezed

    def forward(self, raw: Tensor, joined: Tensor) -> tuple[Tensor, ...]:
        n = raw.shape[0] // 2 if self.squeezed else raw.shape[0]
        logits = raw[:n]
        own = class_logits(logits, self.head)
        squeezed = class_logits(raw[n:], self.head) if self.squeezed else own[:, :0]
        return logits, probabilities(logits, self.head), joined[:n], own, squeezed


class _FeatureGraph(nn.Module):
    def __init__(
        self, model: DiagnosticModel, squeezed: bool, beside: SideNetworks, grain: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.views = _Views(model.preprocess, squeezed, beside, grain)
        self.outputs = _Outputs(model.spec.head, squeezed)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        views, *before = self.views(image)
        raw, taps = self.model.activations(views)
        return (*self.outputs(raw, torch.cat(taps, dim=1)), *before)


def feature_graph(
    model: DiagnosticModel | OnnxModel,
    squeezed: bool,
    beside: SideNetworks | None = None,
    *,
    grain: bool = False,
) -> onnx.ModelProto:
    """``image ->`` the ``OUTPUTS``, each ``[N, ...]``.

    With ``squeezed`` the network runs on ``2 N`` images, the second half through
    ``detectors.squeeze``; without, ``squeezed_logits`` is ``[N, 0]``. So are ``witness_logits``
    and ``residual`` where there is no such network ``beside``, and ``grain`` where it is not asked
    for.
    """
    beside = SideNetworks() if beside is None else beside
    if isinstance(model, DiagnosticModel):
        return onnx.load_from_string(
            export_onnx(
                _FeatureGraph(model, squeezed, beside, grain),
                {"image": example_pixels()},
                OUTPUTS,
                {"image": IMAGE_AXES},
            )
        )
    return _composed(model, squeezed, beside, grain)


def _composed(
    model: OnnxModel, squeezed: bool, beside: SideNetworks, grain: bool
) -> onnx.ModelProto:
    """An ONNX-only model keeps its own nodes; only what stands before and after is ours."""
    spec = model.spec
    views = export_onnx(
        _Views(Preprocess(spec.preprocessing), squeezed, beside, grain),
        {"image": example_pixels()},
        ("x", *_BEFORE),
        {"image": IMAGE_AXES},
    )
    examples = {
        "raw": torch.randn(4, spec.logits),
        "joined": torch.randn(4, sum(model.tap_widths)),
    }
    own = OUTPUTS[: -len(_BEFORE)]
    after = export_onnx(
        _Outputs(spec.head, squeezed), examples, own, {name: (0,) for name in examples}
    )
    weights = {tensor.name for tensor in model.graph.graph.initializer}
    (image,) = (value.name for value in model.graph.graph.input if value.name not in weights)
    logits, *taps = (output.name for output in model.graph.graph.output)
    return compose(
        {
            "views": onnx.load_from_string(views),
            "network": model.graph,
            "join": _join(model.tap_widths),
            "outputs": onnx.load_from_string(after),
        },
        {
            f"network/{image}": "views/x",
            **{f"join/{i}": f"network/{tap}" for i, tap in enumerate(taps)},
            "outputs/raw": f"network/{logits}",
            "outputs/joined": "join/taps",
        },
        {
            **{name: f"outputs/{name}" for name in own},
            **{name: f"views/{name}" for name in _BEFORE},
        },
    )


def _join(widths: Sequence[int]) -> onnx.ModelProto:
    """``[N, d_l]`` each to ``[N, sum d]``."""

    def value(name: str, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, width])

    names = [str(i) for i in range(len(widths))]
    graph = helper.make_graph(
        [helper.make_node("Concat", names, ["taps"], "join", axis=1)],
        "join",
        [value(name, width) for name, width in zip(names, widths, strict=True)],
        [value("taps", sum(widths))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
