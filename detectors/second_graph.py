"""The second stage's graph: an image and drawn parameters to the model's answers to its views, and
how the image lies along the model's own gradient."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from detectors.feature_graph import aligned_parts, gradient_problem, image_of, network_graph
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
    for the images before) to the views as the network's input ``float32[N M, C, h, w]``, after the
    images themselves where they are asked for; how far each view moved, ``float32[N M]``; and
    ``float32[N, 0]``, what the picture has along a gradient where there is none."""

    grey: Tensor

    def __init__(self, preprocess: Preprocess, plain: bool = False) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.plain = plain
        self.register_buffer("grey", preprocess.gain.detach().clone())

    def forward(
        self, image: Tensor, rows: Tensor, columns: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        own = self.preprocess(image)
        x = own[:, None]
        across = columns[:, :, None].transpose(3, 4)
        seen = torch.matmul(torch.matmul(rows[:, :, None], x + noise * self.grey), across)
        move = limited(seen - x, self.grey)
        views = (x + move).flatten(0, 1)
        change = root_mean_square(move.flatten(0, 1))
        return torch.cat([own, views]) if self.plain else views, change, own[:, :0, 0, 0]


class _Answers(nn.Module):
    """Raw logits of the network's rows to those of the images themselves, if they are there, and to
    the class logits of the views, as many as ``change``."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, raw: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        n = raw.shape[0] - change.shape[0]
        return raw[:n], class_logits(raw[n:], self.head)


def second_graph(model: DiagnosticModel | OnnxModel) -> onnx.ModelProto:
    """``INPUTS`` to ``OUTPUTS``: ``view_logits float32[N M, K]``, ``view_change float32[N M]``,
    ``aligned float32[N, 2]``, ``[N, 0]`` of a network whose gradient cannot be a part of it."""
    spec = model.spec
    aligned = not gradient_problem(model)
    network, _ = network_graph(model)
    raw = network.graph.output[0].name
    parts = {
        "views": export_onnx(
            Views(Preprocess(spec.preprocessing), aligned),
            _examples(spec),
            ("x", *OUTPUTS[1:]),
            {"image": IMAGE_AXES, **{name: (0, 1) for name in INPUTS[1:]}},
        ),
        "network": network.SerializeToString(),
        "answers": export_onnx(
            _Answers(spec.head),
            {"raw": torch.randn(5, spec.logits), "change": torch.rand(4)},
            ("plain", OUTPUTS[0]),
            {"raw": (0,), "change": (0,)},
        ),
    }
    connections = {
        f"network/{image_of(network)}": "views/x",
        "answers/raw": f"network/{raw}",
        "answers/change": f"views/{OUTPUTS[1]}",
    }
    outputs = {OUTPUTS[0]: f"answers/{OUTPUTS[0]}", **{o: f"views/{o}" for o in OUTPUTS[1:]}}
    if aligned:
        found, joints = aligned_parts(spec, network, "answers/plain", backwards=True, views=True)
        parts |= found
        connections |= joints
        outputs[OUTPUTS[2]] = f"aligned/{OUTPUTS[2]}"
    return compose(
        {name: onnx.load_from_string(part) for name, part in parts.items()}, connections, outputs
    )


def _examples(spec: ModelSpec) -> dict[str, Tensor]:
    height, width = spec.preprocessing.size
    each = 2, 3
    return {
        "image": example_pixels(),
        "rows": torch.rand(*each, height, height),
        "columns": torch.rand(*each, width, width),
        "noise": torch.rand(*each, spec.preprocessing.channels, height, width),
    }
