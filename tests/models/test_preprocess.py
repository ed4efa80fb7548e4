"""Preprocessing in the graph is the resize that everybody else means by antialiased bilinear."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch.nn import functional

from models.export import IMAGE_AXES, example_pixels, export_onnx
from models.preprocess import Preprocess
from models.spec import Preprocessing


def pixels(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    "size", [(224, 224), (300, 500), (100, 150), (37, 700), (9, 5), (2500, 1203)]
)
def test_stretching_equals_torch_antialiased_bilinear(size: tuple[int, int]) -> None:
    preprocess = Preprocess(Preprocessing(resize=(224, 200), mean=(0.0,), std=(1.0,)))
    x = pixels(2, *size, 1)
    wanted = functional.interpolate(
        x.permute(0, 3, 1, 2).float(), (224, 200), mode="bilinear", antialias=True
    )
    assert torch.allclose(preprocess(x), wanted / 255, atol=1e-5)


def test_the_declared_size_keeps_pixels_exactly() -> None:
    preprocess = Preprocess(Preprocessing(resize=(64, 64), mean=(0.5,), std=(0.25,)))
    x = pixels(1, 64, 64, 1)
    wanted = (x.permute(0, 3, 1, 2).double() / 255 - 0.5) / 0.25
    assert torch.allclose(preprocess(x).double(), wanted, atol=1e-6)


def test_shortest_side_then_centre_crop() -> None:
    preprocess = Preprocess(Preprocessing(resize=32, crop=(32, 32), mean=(0.0,), std=(1.0,)))
    x = pixels(1, 32, 48, 1)  # nothing to scale: the crop takes columns 8 to 39
    assert torch.allclose(preprocess(x)[0, 0] * 255, x[0, :, 8:40, 0].float(), atol=1e-3)


def test_the_centre_of_a_resized_image_is_that_of_torchs() -> None:
    preprocess = Preprocess(Preprocessing(resize=64, crop=(48, 40), mean=(0.0,), std=(1.0,)))
    x = pixels(1, 700, 1130, 1)
    wanted = functional.interpolate(
        x.permute(0, 3, 1, 2).float(), (64, 103), mode="bilinear", antialias=True
    )
    found = preprocess(x) * 255
    assert torch.allclose(found, wanted[:, :, 8:56, 31:71], atol=2e-3)


def test_gray_and_rgb_meet_either_model() -> None:
    gray = Preprocess(Preprocessing(resize=(8, 8), mean=(0.0,), std=(1.0,)))
    colour = Preprocess(Preprocessing(channels=3, resize=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3))
    x = pixels(1, 8, 8, 3)
    assert torch.allclose(gray(x)[0, 0] * 255, x[0].float().mean(dim=2), atol=1e-3)
    assert torch.allclose(colour(x)[0] * 255, x[0].permute(2, 0, 1).float(), atol=1e-3)
    assert torch.allclose(colour(x[..., :1])[0, 2] * 255, x[0, ..., 0].float(), atol=1e-3)


@pytest.mark.parametrize(
    "spec",
    [
        Preprocessing(resize=(48, 48)),
        Preprocessing(resize=56, crop=(48, 48)),
        Preprocessing(channels=3, resize=None, crop=(40, 40), mean=(0.5,) * 3, std=(0.2,) * 3),
    ],
)
def test_onnx_runtime_and_torch_agree_at_every_size(spec: Preprocessing) -> None:
    preprocess = Preprocess(spec)
    graph = export_onnx(preprocess, {"pixels": example_pixels()}, ("x",), {"pixels": IMAGE_AXES})
    session = ort.InferenceSession(graph)
    for shape in [(1, 64, 64, 1), (3, 50, 90, 3), (2, 200, 41, 1)]:
        x = pixels(*shape)
        found = session.run(None, {"pixels": x.numpy()})[0]
        np.testing.assert_allclose(found, preprocess(x).numpy(), atol=1e-5)


def test_gradients_reach_the_pixels_of_a_resized_image() -> None:
    preprocess = Preprocess(Preprocessing(resize=(8, 8), mean=(0.0,), std=(1.0,)))
    x = torch.full((1, 16, 16, 1), 100.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(preprocess(x).sum(), x)
    # 64 outputs, each a mean of weights one: the gradient sums to 64 / 255, inside evenly spread
    assert torch.isclose(gradient.sum(), torch.tensor(64 / 255), rtol=1e-4)
    inner = gradient[0, 4:12, 4:12, 0]
    assert torch.allclose(inner, inner.mean().expand_as(inner), rtol=1e-4)


def test_a_spec_that_makes_no_sense_says_why() -> None:
    with pytest.raises(ValueError, match="one value per channel"):
        Preprocessing(channels=3)
    with pytest.raises(ValueError, match="fixed size"):
        Preprocessing(resize=256)
    with pytest.raises(ValueError, match="larger than the resized image"):
        Preprocessing(resize=32, crop=(64, 64))
