"""The first part of the fused graph: pixels to logits, taps and the squeezed view's logits."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from detectors.aligned import Aligned, Seed
from detectors.foretold import Foretold
from detectors.picture import Picture
from detectors.side_networks import SideNetworks
from detectors.squeeze import root_mean_square, squeeze
from detectors.synthetic_gradient import SyntheticGradient
from models.diagnostic import DiagnosticModel
from models.export import IMAGE_AXES, OPSET, example_pixels, export_onnx
from models.head import class_logits, probabilities
from models.input_gradient import GRADIENT, SEED, GradientProblem, input_gradient
from models.load import OnnxModel
from models.onnx_graph import compose
from models.preprocess import Preprocess
from models.spec import Head, ModelSpec

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
    "aligned",
)
_BEFORE = OUTPUTS[5:-1]
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
    """From the network's logits and joined taps of all views to the feature graph's outputs, and
    to no columns for ``aligned``."""

    def __init__(self, head: Head, squeezed: bool) -> None:
        super().__init__()
        self.head = head
        self.squeezed = squeezed

    def forward(self, raw: Tensor, joined: Tensor) -> tuple[Tensor, ...]:
        n = raw.shape[0] // 2 if self.squeezed else raw.shape[0]
        logits = raw[:n]
        own = class_logits(logits, self.head)
        squeezed = class_logits(raw[n:], self.head) if self.squeezed else own[:, :0]
        return logits, probabilities(logits, self.head), joined[:n], own, squeezed, own[:, :0]


class _Network(nn.Module):
    """The network's input to its raw logits and joined taps."""

    def __init__(self, model: DiagnosticModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raw, taps = self.model.activations(x)
        return raw, torch.cat(taps, dim=1)


class AlignedRows(nn.Module):
    """``Features.aligned`` of the images themselves, the first of all rows: with the gradient, with
    what is foretold of it, or with both."""

    def __init__(
        self, gain: Tensor, gradient: SyntheticGradient | None, *, views: bool = False
    ) -> None:
        """
        Args:
            views: whether further rows follow the images' own.
        """
        super().__init__()
        self.views = views
        self.aligned = Aligned(gain)
        self.foretold = None if gradient is None else Foretold(gradient, gain)

    def forward(self, views: Tensor, seed: Tensor, gradient: Tensor | None = None) -> Tensor:
        x = views[: seed.shape[0]] if self.views else views
        columns = [] if gradient is None else [self.aligned(x, gradient)]
        if self.foretold is not None:
            columns = [*(c[:, :1] for c in columns), self.foretold(x, seed)]
        return torch.cat(columns, dim=1)


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
        *own, nothing = self.outputs(raw, torch.cat(taps, dim=1))
        return (*own, *before, nothing)


def feature_graph(
    model: DiagnosticModel | OnnxModel,
    squeezed: bool,
    beside: SideNetworks | None = None,
    *,
    grain: bool = False,
    aligned: bool = False,
) -> onnx.ModelProto:
    """``image ->`` the ``OUTPUTS``, each ``[N, ...]``.

    With ``squeezed`` the network runs on ``2 N`` images, the second half through
    ``detectors.squeeze``; without, ``squeezed_logits`` is ``[N, 0]``. So are ``witness_logits``
    and ``residual`` where there is no such network ``beside``, and ``grain`` and ``aligned`` where
    they are not asked for. ``aligned`` runs the network backwards as well, on the ``N`` images;
    a network ``beside`` that foretells its gradient does not.

    Raises ``GradientProblem`` where that cannot be.
    """
    beside = SideNetworks() if beside is None else beside
    if isinstance(model, DiagnosticModel) and not aligned and beside.gradient is None:
        return onnx.load_from_string(
            export_onnx(
                _FeatureGraph(model, squeezed, beside, grain),
                {"image": example_pixels()},
                OUTPUTS,
                {"image": IMAGE_AXES},
            )
        )
    return _composed(model, squeezed, beside, grain, aligned)


def gradient_problem(model: DiagnosticModel | OnnxModel) -> str:
    """Why the network's gradient cannot be a part of the graph; empty where it can."""
    try:
        input_gradient(network_graph(model)[0])
    except GradientProblem as problem:
        return str(problem)
    return ""


def network_graph(model: DiagnosticModel | OnnxModel) -> tuple[onnx.ModelProto, int]:
    """The network's input to its raw logits, then its joined taps or, of an ONNX-only model, each
    of them; and their width together."""
    if isinstance(model, OnnxModel):
        return model.graph, sum(model.tap_widths)
    preprocessing = model.spec.preprocessing
    network = onnx.load_from_string(
        export_onnx(
            _Network(model),
            {"x": torch.randn(2, preprocessing.channels, *preprocessing.size)},
            ("raw", "joined"),
            {"x": (0,)},
        )
    )
    return network, network.graph.output[1].type.tensor_type.shape.dim[1].dim_value


def _composed(
    model: DiagnosticModel | OnnxModel,
    squeezed: bool,
    beside: SideNetworks,
    grain: bool,
    aligned: bool,
) -> onnx.ModelProto:
    """The network as a graph of its own, with what stands before it, after it and backwards
    through it. An ONNX-only model keeps its own nodes."""
    spec = model.spec
    preprocess = Preprocess(spec.preprocessing)
    parts = {
        "views": export_onnx(
            _Views(preprocess, squeezed, beside, grain),
            {"image": example_pixels()},
            ("x", *_BEFORE),
            {"image": IMAGE_AXES},
        )
    }
    network, width = network_graph(model)
    parts["network"] = network.SerializeToString()
    logits, *taps = (output.name for output in network.graph.output)
    if isinstance(model, OnnxModel):
        parts["join"] = _join(model.tap_widths).SerializeToString()
        connections = {f"join/{i}": f"network/{tap}" for i, tap in enumerate(taps)}
        connections["outputs/joined"] = "join/taps"
    else:
        connections = {"outputs/joined": f"network/{taps[0]}"}
    examples = {"raw": torch.randn(4, spec.logits), "joined": torch.randn(4, width)}
    own = (*OUTPUTS[:5], OUTPUTS[-1])
    parts["outputs"] = export_onnx(
        _Outputs(spec.head, squeezed), examples, own, {name: (0,) for name in examples}
    )
    connections |= {
        f"network/{image_of(network)}": "views/x",
        "outputs/raw": f"network/{logits}",
    }
    outputs = {
        **{name: f"outputs/{name}" for name in own},
        **{name: f"views/{name}" for name in _BEFORE},
    }
    if aligned or beside.gradient is not None:
        found, joints = aligned_parts(
            spec, network, "outputs/logits", beside.gradient, backwards=aligned, views=squeezed
        )
        parts |= found
        connections |= joints
        outputs["aligned"] = "aligned/aligned"
    return compose(
        {name: onnx.load_from_string(part) for name, part in parts.items()}, connections, outputs
    )


def image_of(network: onnx.ModelProto) -> str:
    """The name of the network's input."""
    weights = {tensor.name for tensor in network.graph.initializer}
    (image,) = (value.name for value in network.graph.input if value.name not in weights)
    return str(image)


def aligned_parts(
    spec: ModelSpec,
    network: onnx.ModelProto,
    logits: str,
    foretold: SyntheticGradient | None = None,
    *,
    backwards: bool,
    views: bool,
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Parts of a graph with the parts ``network`` and ``views``, whose ``x`` is the network's
    input, that make ``aligned/aligned``; and what connects them (``models.onnx_graph.compose``).

    Args:
        logits: the value that holds the images' own raw logits ``[N, L]``.
        backwards: whether the network runs backwards, for its gradient.
        views: whether further rows follow the images' own in the network's input.

    Raises ``GradientProblem``.
    """
    channels, size = spec.preprocessing.channels, spec.preprocessing.size
    along = {
        "views": torch.randn(4 if views else 2, channels, *size),
        SEED: torch.randn(2, spec.logits),
    }
    parts = {
        "seed": export_onnx(
            Seed(spec.head), {"raw": torch.randn(4, spec.logits)}, (SEED,), {"raw": (0,)}
        )
    }
    connections = {
        "seed/raw": logits,
        "aligned/views": "views/x",
        f"aligned/{SEED}": f"seed/{SEED}",
    }
    if backwards:
        gradient = input_gradient(network, rows=views)
        parts["backwards"] = gradient.SerializeToString()
        along[GRADIENT] = torch.randn(2, channels, *size)
        connections |= {
            **{
                f"backwards/{value.name}": f"network/{value.name}" for value in gradient.graph.input
            },
            f"backwards/{SEED}": f"seed/{SEED}",
            f"aligned/{GRADIENT}": f"backwards/{GRADIENT}",
        }
    parts["aligned"] = export_onnx(
        AlignedRows(Preprocess(spec.preprocessing).gain, foretold, views=views),
        along,
        ("aligned",),
        {name: (0,) for name in along},
    )
    return parts, connections


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
