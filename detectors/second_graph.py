"""The second stage's graph: an image and drawn parameters to the model's answers to its views."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from detectors.second_stage import INPUTS, OUTPUTS
from detectors.squeeze import limited, root_mean_square
from models.diagnostic import DiagnosticModel
from models.export import IMAGE_AXES, example_pixels, export_onnx
from models.head import class_logits
from models.load import OnnxModel
from models.onnx_graph import compose
from models.preprocess import Preprocess
from models.spec import Head, ModelSpec


class Views(nn.Module):
    """Pixels of N images and the parameters of M views of each (``detectors.draws``, with an axis
    for the images before) to the views as the network's input ``float32[N M, C, h, w]`` and how
    far each moved, ``float32[N M]``."""

    grey: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.register_buffer("grey", preprocess.gain.detach().clone())

    def forward(
        self, image: Tensor, rows: Tensor, columns: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        x = self.preprocess(image)[:, None]
        across = columns[:, :, None].transpose(3, 4)
        seen = torch.matmul(torch.matmul(rows[:, :, None], x + noise * self.grey), across)
        move = limited(seen - x, self.grey)
        return (x + move).flatten(0, 1), root_mean_square(move.flatten(0, 1))


class _Answers(nn.Module):
    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, raw: Tensor) -> Tensor:
        return class_logits(raw, self.head)


class _SecondStage(nn.Module):
    def __init__(self, model: DiagnosticModel) -> None:
        super().__init__()
        self.views = Views(model.preprocess)
        self.network = model.network
        self.answers = _Answers(model.spec.head)

    def forward(
        self, image: Tensor, rows: Tensor, columns: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        view, change = self.views(image, rows, columns, noise)
        return self.answers(self.network(view)), change


def second_graph(model: DiagnosticModel | OnnxModel) -> onnx.ModelProto:
    """``INPUTS`` to ``OUTPUTS``: ``view_logits float32[N M, K]``, ``view_change float32[N M]``."""
    spec = model.spec
    if isinstance(model, DiagnosticModel):
        return onnx.load_from_string(
            export_onnx(_SecondStage(model), _examples(spec), OUTPUTS, _AXES)
        )
    views = export_onnx(
        Views(Preprocess(spec.preprocessing)), _examples(spec), ("x", OUTPUTS[1]), _AXES
    )
    after = export_onnx(
        _Answers(spec.head), {"raw": torch.randn(4, spec.logits)}, OUTPUTS[:1], {"raw": (0,)}
    )
    weights = {tensor.name for tensor in model.graph.graph.initializer}
    (image,) = (value.name for value in model.graph.graph.input if value.name not in weights)
    logits = model.graph.graph.output[0].name
    return compose(
        {
            "views": onnx.load_from_string(views),
            "network": model.graph,
            "answers": onnx.load_from_string(after),
        },
        {f"network/{image}": "views/x", "answers/raw": f"network/{logits}"},
        {OUTPUTS[0]: f"answers/{OUTPUTS[0]}", OUTPUTS[1]: f"views/{OUTPUTS[1]}"},
    )


_AXES = {"image": IMAGE_AXES, **{name: (0, 1) for name in INPUTS[1:]}}


def _examples(spec: ModelSpec) -> dict[str, Tensor]:
    height, width = spec.preprocessing.size
    each = 2, 3
    return {
        "image": example_pixels(),
        "rows": torch.rand(*each, height, height),
        "columns": torch.rand(*each, width, width),
        "noise": torch.rand(*each, spec.preprocessing.channels, height, width),
    }
