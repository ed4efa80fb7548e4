"""A guard as its attacker holds it: the bundle's graph, differentiable, with its thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from onnx import helper
from safetensors.numpy import load
from torch import Tensor, nn

from attacks.access import Access
from attacks.bpda import SmoothedModule
from attacks.objective import Model, reached
from detectors.bundle import Bundle, CellLevels
from detectors.calibrate import Calibration, Cell, Scores
from detectors.draws import draw
from detectors.second_stage import INPUTS, SECOND_GRAPH, WEIGHT, SecondStage
from detectors.second_stage_fit import SecondScore
from models.head import class_logits
from models.onnx_to_torch import OnnxModule, convert

FUSED, QUALITY = "fused", "quality"
FIXTURE = "fixture.safetensors"
SECOND_SEED = 1_000_007
"""Of the attacker's own draws: nothing to do with a deployment's."""
_FEATURES = (
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
_READ = ("class_logits", "probabilities", "squeezed_logits", "scores", "fused", "quality", "taps")


class Reading(NamedTuple):
    """What a guarded model says of N images. All float32."""

    logits: Tensor
    """``[N, K]``, one per class whatever the head (``models.head.class_logits``)."""
    probabilities: Tensor
    """``[N, K]``."""
    squeezed_logits: Tensor
    """``[N, K]`` of the squeezed view, ``[N, 0]`` without one."""
    scores: Tensor
    """``[N, D]``, one per detector; higher is more suspicious."""
    fused: Tensor
    """``[N]``."""
    quality: Tensor
    """``[N]``."""
    taps: tuple[Tensor, ...]
    """``[N, d_l]`` each, in network order."""

    @property
    def predicted(self) -> Tensor:
        """``int64[N]``: the class whose thresholds judge the image."""
        return self.probabilities.argmax(dim=1)


class GuardedModel(nn.Module):
    """Pixels ``float[N, H, W, C]`` in grey levels to class logits, and with ``readings`` to all
    that the served graph says of them. Frozen; differentiable in the pixels.

    Readings are the served engine's own; where there is a second stage, by views of the attacker's
    own drawing, so no two are alike. Their gradients are too, but for the steps of the detectors
    that have none, where ``attacks.bpda`` puts a slope. Neighbour detectors need no surrogate
    here: the distances to the nearest 20 of 100 images, or to a whole bank under a Gaussian, have
    useful gradients of their own, unlike the vote that soft nearest neighbours were made for
    (Sitawarin and Wagner 2019, arXiv 1903.08333).
    """

    threshold: Tensor
    spread: Tensor

    def __init__(self, bundle: Bundle) -> None:
        """Raises ``ConversionProblem`` for a graph that torch cannot follow."""
        super().__init__()
        manifest = bundle.manifest
        self.spec = manifest.model
        self.bundle = bundle
        self.detectors = tuple(entry.name for entry in manifest.detectors)
        self.routes = (FUSED, QUALITY, *self.detectors)
        graph = onnx.load_from_string(bundle.graph)
        squeezed = _squeezed(graph) is not None
        classes = len(manifest.model.classes)
        self._widths = (
            *(classes, classes, classes if squeezed else 0, len(self.detectors), 1, 1),
            *manifest.tap_widths,
        )
        self.graph = SmoothedModule(graph, _FEATURES)
        self.plain: OnnxModule = convert(_unguarded(graph))
        thresholds, spreads = _thresholds(bundle.calibration, manifest.levels)
        self.second = _Second.of(bundle)
        self.register_buffer("threshold", thresholds)
        self.register_buffer("spread", spreads)
        self.eval().requires_grad_(False)
        self.graph.measure_steps(self._examples())

    def forward(self, pixels: Tensor) -> Tensor:
        """``float32[N, K]`` class logits, by the classifier alone: no squeezed view, no guard."""
        (raw,) = self.plain(pixels)
        return class_logits(raw, self.spec.head)

    def measure(self, pixels: Tensor) -> Tensor:
        """A reading as one tensor, ``float32[N, ...]``: what an ``Access`` can count."""
        outputs = list(self.graph.outputs((pixels,), _READ))
        if self.second is not None:
            place = _READ.index("fused")
            outputs[place] = self.second(pixels, outputs[0], outputs[place])
        columns = [value if value.ndim == 2 else value[:, None] for value in outputs]
        return torch.cat(columns, dim=1)

    def unpack(self, measured: Tensor) -> Reading:
        """``measure``'s tensor as a ``Reading``."""
        logits, probabilities, squeezed, scores, fused, quality, *taps = torch.split(
            measured, list(self._widths), dim=1
        )
        return Reading(
            logits, probabilities, squeezed, scores, fused[:, 0], quality[:, 0], tuple(taps)
        )

    def readings(self, pixels: Tensor, model: Model | None = None) -> Reading:
        """One pass of the served graph, counted where ``model`` counts if it is an ``Access``."""
        measure = model.through(self.measure) if isinstance(model, Access) else self.measure
        return self.unpack(measure(pixels))

    def excess(self, reading: Reading, route: str = FUSED) -> Tensor:
        """``float32[N]``: how far above its threshold a score lies, in standard deviations of the
        predicted class's benign scores; below 0 the service lets it pass.

        Args:
            route: ``fused`` is the guard's decision, the larger excess of the fused and the
                quality score. A detector's name is that detector alone, held at the level of the
                fused score; ``quality`` the quality score alone.
        """
        if route not in self.routes:
            raise ValueError(f"no detector {route!r}; the guard has {', '.join(self.routes)}")
        columns = torch.cat([reading.fused[:, None], reading.quality[:, None], reading.scores], 1)
        cell = reading.predicted
        excess = (columns - self.threshold[cell]) / self.spread[cell]
        if route == FUSED:
            return excess[:, :2].amax(dim=1)
        return excess[:, self.routes.index(route)]

    def accepted(self, reading: Reading) -> Tensor:
        """``bool[N]``: neither flagged nor rejected, by the bundle's own levels and with the
        default policy, under which a score that is not finite is rejected."""
        judges_quality = self.threshold[reading.predicted, 1].isfinite()
        answered = reading.fused.isfinite() & (reading.quality.isfinite() | ~judges_quality)
        passes = torch.stack(
            [
                reading.fused < self.threshold[reading.predicted, 0],
                (reading.quality < self.threshold[reading.predicted, 1]) | ~judges_quality,
            ]
        )
        return answered & passes.all(dim=0)

    def judge(self, pixels: Tensor, labels: Tensor, targeted: bool) -> Tensor:
        """``bool[N]``: misdiagnosed (or the target diagnosed) *and* accepted; an ``Access``'s
        judge."""
        with torch.no_grad():
            reading = self.readings(pixels)
            return reached(reading.logits, labels, targeted=targeted) & self.accepted(reading)

    def _examples(self) -> Tensor:
        """Images of the kind that the guard is for, ``float32[M, H, W, C]``."""
        images = load(self.bundle.read(FIXTURE))["images"]
        return torch.from_numpy(images).float()


class _Second(nn.Module):
    """The second stage as one meets it who does not know the deployment's key: its views are drawn
    anew at every look, so that gradients are of random views (expectation over transformations,
    Athalye et al. 2018, arXiv 1707.07397) and acceptance by it is one draw's.

    ``fused`` of a picked image is ``detectors.staged_engine``'s sum and so has the gradients of
    both stages: there are two ways out, to look innocent and not to be looked at.
    """

    def __init__(self, stage: SecondStage, graph: OnnxModule) -> None:
        super().__init__()
        self.entry = stage.entry
        self.graph = graph
        self.score = SecondScore(stage)
        self._rng = np.random.default_rng(SECOND_SEED)

    @classmethod
    def of(cls, bundle: Bundle) -> _Second | None:
        """None for a bundle without one."""
        stage = SecondStage.of(bundle)
        if stage is None:
            return None
        return cls(stage, convert(onnx.load_from_string(bundle.read(SECOND_GRAPH))))

    def forward(self, pixels: Tensor, plain: Tensor, first: Tensor) -> Tensor:
        """``float32[N]``: fused scores of both stages, from the first's."""
        picked = (first.detach() >= self.entry.threshold).nonzero()[:, 0]
        if len(picked) == 0:
            return first
        n, views = len(picked), self.entry.views
        draws = [draw(self._rng, views, self.entry.channels, self.entry.size) for _ in range(n)]
        parameters = (
            torch.from_numpy(np.stack([getattr(one, name) for one in draws])).to(first)
            for name in INPUTS[1:]
        )
        seen = self.graph(pixels[picked], *parameters)
        score = self.score(plain[picked], *seen)
        return first.index_add(0, picked, WEIGHT * score)


def load_guarded(directory: Path) -> GuardedModel:
    """The guarded model of a bundle's folder. Raises ``BundleProblem``."""
    return GuardedModel(Bundle.open(directory))


def lowest_flagged(scores: Scores, level: float | None) -> float:
    """The smallest float32 score whose conformal p-value is at or below ``level``; infinite where
    none is.

    ``p = (1 + #{scores >= s}) / (n + 1)`` is at or below the level as long as at most m of the
    n calibration scores reach s, that is for every s above the (m + 1)-th largest of them.

    Args:
        scores: ``float32[n]``, ascending.
    """
    n = len(scores)
    if level is None or 1 / (n + 1) > level:
        return float("inf")
    most = max(m for m in range(n + 1) if (1 + m) / (n + 1) <= level)
    if most == n:
        return float("-inf")
    return float(np.nextafter(scores[n - 1 - most], np.float32(np.inf)))


def _thresholds(calibration: Calibration, levels: tuple[CellLevels, ...]) -> tuple[Tensor, Tensor]:
    """``float32[K, 2 + D]`` each: thresholds of the fused score, the quality score and every
    detector by predicted class, and the benign scores' standard deviations."""

    def columns(cell: Cell) -> list[Scores]:
        return [cell.fused, cell.quality, *cell.detectors.T]

    def row(cell: Cell, level: CellLevels) -> list[float]:
        held = max((rate for rate in (level.flag, level.reject) if rate is not None), default=None)
        rates = [held, level.quality] + [held] * cell.detectors.shape[1]
        return [
            lowest_flagged(scores, rate) for scores, rate in zip(columns(cell), rates, strict=True)
        ]

    thresholds = [row(*pair) for pair in zip(calibration.cells, levels, strict=True)]
    spreads = [
        [max(float(np.std(scores)), 1e-6) if len(scores) else 1.0 for scores in columns(cell)]
        for cell in calibration.cells
    ]
    return torch.tensor(thresholds), torch.tensor(spreads)


def _squeezed(graph: onnx.ModelProto) -> onnx.NodeProto | None:
    """The node that doubles the batch, if there is one: it joins x and its squeezed view, whose
    difference is measured as well."""
    differences = {tuple(node.input) for node in graph.graph.node if node.op_type == "Sub"}
    doubling: list[onnx.NodeProto] = [
        node
        for node in graph.graph.node
        if node.op_type == "Concat"
        and tuple(reversed(node.input)) in differences
        and helper.get_node_attr_value(node, "axis") == 0
    ]
    return doubling[0] if doubling else None


def _unguarded(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The classifier alone, ``image`` to raw logits: half of the fused graph's work where that
    looks at a squeezed view too."""
    pruned = onnx.ModelProto()
    pruned.CopyFrom(graph)
    made_by = {name: node for node in pruned.graph.node for name in node.output}
    raw = "logits"
    doubling = _squeezed(pruned)
    if doubling is not None:
        while made_by[raw].op_type == "Identity":
            raw = made_by[raw].input[0]
        raw = made_by[raw].input[0]  # before the halves are parted
        doubling.op_type = "Identity"
        del doubling.input[1:], doubling.attribute[:]
    needed, kept = {raw}, []
    for node in reversed(pruned.graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            kept.append(node)
    weights = [tensor for tensor in pruned.graph.initializer if tensor.name in needed]
    (output,) = (value for value in graph.graph.output if value.name == "logits")
    shape = [dim.dim_value or None for dim in output.type.tensor_type.shape.dim]
    body = helper.make_graph(
        kept[::-1],
        "classifier",
        list(graph.graph.input),
        [helper.make_tensor_value_info(raw, onnx.TensorProto.FLOAT, shape)],
        weights,
    )
    return helper.make_model(
        body, opset_imports=list(graph.opset_import), ir_version=graph.ir_version
    )
