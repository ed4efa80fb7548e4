"""A step along the gradient must show, whatever the picture; noise and the rest must not."""

import onnx
import pytest
import torch
from feature_cases import assert_exports
from torch import Tensor

from detectors.acceptance import aligned_of
from detectors.aligned import Aligned, Seed
from detectors.feature_graph import gradient_problem
from models.diagnostic import DiagnosticModel
from models.export import export_onnx
from models.load import OnnxModel
from models.resnet import resnet
from models.spec import Head, ModelSpec, Preprocessing

DRAW = torch.Generator().manual_seed(0)
GAIN = torch.full((1, 1, 1, 1), 1 / 255)


def picture(n: int, side: int = 64) -> Tensor:
    """Soft light and a hard edge, in units of the network's input."""
    rows = torch.linspace(0, 3, side)
    light = 0.5 + 0.3 * torch.sin(rows[:, None] + torch.rand(n, 1, 1, 1, generator=DRAW) * 6)
    light = light * torch.cos(rows).abs()
    light[..., side // 2 :] *= 0.6
    return light


def smooth_gradient(n: int, side: int = 64) -> Tensor:
    drawn = torch.randn(n, 1, side, side, generator=DRAW)
    return torch.nn.functional.avg_pool2d(drawn, 5, 1, 2) * 1e-3


def test_a_step_of_one_grey_level_shows_and_another_images_does_not() -> None:
    x, gradient = picture(6), smooth_gradient(6)
    aligned = Aligned(GAIN)
    stepped = x + GAIN * gradient.sign()
    along, height = aligned(stepped, gradient).unbind(dim=1)
    assert along.min() > 0.4
    assert aligned(stepped, gradient.roll(1, dims=0))[:, 0].abs().max() < 0.1
    assert aligned(x, gradient)[:, 0].abs().max() < 0.1
    assert aligned(x - GAIN * gradient.sign(), gradient)[:, 0].max() < -0.4
    assert (height > aligned(x, gradient)[:, 1]).all()


def test_scale_of_the_gradient_does_not_matter_and_nothing_is_not_a_number() -> None:
    x, gradient = picture(3), smooth_gradient(3)
    aligned = Aligned(GAIN)
    torch.testing.assert_close(aligned.step(1e-6 * gradient), aligned.step(gradient))
    blank = torch.zeros_like(x)
    for image, along in ((blank, gradient), (x, blank), (blank, blank)):
        found = aligned(image, along)
        assert torch.isfinite(found).all()
        assert found[:, 0].abs().max() < 1e-6


def test_exports() -> None:
    class Numbered(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.aligned = Aligned(GAIN)

        def forward(self, input_0: Tensor, input_1: Tensor) -> Tensor:
            return self.aligned(input_0, input_1)

    assert_exports(Numbered(), lambda n: (picture(n, 16), smooth_gradient(n, 16)), 1e-4)


@pytest.mark.parametrize(
    ("head", "raw", "expected"),
    [
        (Head.SOFTMAX, [[1.0, 3.0, 2.0]], [[0.0, 1.0, -1.0]]),
        (Head.SIGMOID, [[2.0], [-2.0]], [[1.0], [-1.0]]),
        (Head.MULTILABEL, [[2.0, -1.0, 0.5]], [[1.0, -1.0, 1.0]]),
    ],
)
def test_what_an_attack_has_raised(
    head: Head, raw: list[list[float]], expected: list[list[float]]
) -> None:
    assert Seed(head)(torch.tensor(raw)).tolist() == expected


def test_a_real_networks_own_attack_shows() -> None:
    torch.manual_seed(0)
    spec = ModelSpec(
        name="drawn",
        head=Head.SOFTMAX,
        classes=("a", "b"),
        preprocessing=Preprocessing(resize=(64, 64)),
    )
    model = DiagnosticModel(spec, resnet(widths=(8, 12), blocks=(1, 1), channels=1, logits=2))
    pixels = (255 * picture(4)).clamp(0, 255).round()
    x = model.preprocess(pixels.permute(0, 2, 3, 1).byte()).requires_grad_()
    raw, _ = model.activations(x)
    (gradient,) = torch.autograd.grad(raw, x, Seed(spec.head)(raw.detach()))
    moved = x.detach() + 2 * model.preprocess.gain * gradient.sign()
    before, after = (
        aligned_of(model, seen, exact=True, foretold=None)[:, 0] for seen in (x, moved)
    )
    assert (after > before).all()
    assert (after - before).mean() > 0.1


def test_a_network_without_a_known_gradient_is_told() -> None:
    class Attention(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(x.flatten(1), dim=1)

    spec = ModelSpec(
        name="drawn", classes=("a", "b"), head=Head.SOFTMAX, preprocessing=Preprocessing()
    )
    example = {"x": torch.randn(2, 1, 4, 4)}
    graph = onnx.load_from_string(export_onnx(Attention(), example, ("raw",), {"x": (0,)}))
    assert "Softmax" in gradient_problem(OnnxModel(spec, graph, None, "", (16,)))
    network = resnet(widths=(8, 12), blocks=(1, 1), channels=1, logits=2)
    assert gradient_problem(DiagnosticModel(spec, network)) == ""
