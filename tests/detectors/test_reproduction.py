"""The analyses of Ma et al. on models whose answers can be worked out on paper."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detectors.paper_protocol import null_transfer
from detectors.reproduction.class_activation import class_activation
from detectors.reproduction.feature_plane import feature_plane
from detectors.reproduction.loss_landscape import EPSILONS, loss_landscape
from detectors.reproduction.saliency import PAPER_UNIT, saliency, spread
from models.diagnostic import DiagnosticModel
from models.spec import ModelSpec, Preprocessing

SIDE, CHANNELS = 6, 3
GENERATOR = torch.Generator().manual_seed(0)


class Linear:
    """``z = W x / 255``, two classes."""

    def __init__(self) -> None:
        self.weight = torch.randn(2, SIDE, SIDE, CHANNELS, generator=GENERATOR) / 255

    def __call__(self, pixels: Tensor) -> Tensor:
        return torch.einsum("nhwc,khwc->nk", pixels, self.weight)


def images(n: int = 4) -> tuple[Tensor, Tensor]:
    """Far enough from black and white that nothing is clipped."""
    pixels = 60 + 130 * torch.rand(n, SIDE, SIDE, CHANNELS, generator=GENERATOR)
    return pixels, torch.arange(n) % 2


def test_saliency_of_a_linear_model_is_its_weights_times_the_error() -> None:
    """``dCE/dx = (1 - p_y)(w_other - w_y)``."""
    model, (pixels, labels) = Linear(), images()
    error = 1 - torch.softmax(model(pixels), 1).gather(1, labels[:, None])[:, 0]
    difference = (model.weight[0] - model.weight[1]).abs().sum(dim=2)
    expected = PAPER_UNIT * error[:, None, None] * difference
    torch.testing.assert_close(saliency(model, pixels, labels), expected)


def test_spread_is_half_of_an_even_map_and_one_pixel_of_a_pointed_one() -> None:
    even, pointed = torch.ones(4, 4), torch.zeros(4, 4)
    pointed[2, 1] = 3
    found = spread(torch.stack([even, pointed, torch.zeros(4, 4)])).tolist()
    assert found[:2] == [0.5, 1 / 16]
    assert math.isnan(found[2])


def test_landscape_of_linear_models_rises_by_their_weights() -> None:
    """The margin ``d . x`` falls by ``ε_1 |d|_1`` along the model's own sign gradient, and by
    ``ε_2 d . sign(d')`` along another's."""
    model, second, (pixels, labels) = Linear(), Linear(), images()
    found = loss_landscape(model, second, pixels, labels)
    assert found.shape == (4, 16, 16)
    own, other = (m.weight[0] - m.weight[1] for m in (model, second))
    sign = torch.where(labels == 0, 1.0, -1.0)[:, None, None]
    margin = sign * (model(pixels) @ torch.tensor([1.0, -1.0]))[:, None, None]
    epsilons = torch.tensor(EPSILONS)
    fall = epsilons[:, None] * own.abs().sum() + epsilons[None] * (own * other.sign()).sum()
    torch.testing.assert_close(found, nn.functional.softplus(fall - margin), rtol=1e-4, atol=1e-4)


class Pooled(nn.Module):
    """A 1 x 1 convolution, averaged over positions, then classes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 3, 1)
        self.classify = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.features(x).mean(dim=(2, 3)))
        return logits


def test_grad_cam_of_a_linear_head_is_its_weighted_activation() -> None:
    """``∂z_c/∂A_k = W_ck / (h w)`` everywhere, so Grad-CAM is ``ReLU(sum_k W_ck A_k) / (h w)``."""
    torch.manual_seed(1)
    network = Pooled().requires_grad_(False)
    spec = ModelSpec(name="m", classes=("a", "b"), preprocessing=Preprocessing(resize=(5, 5)))
    model = DiagnosticModel(spec, network)
    pixels, classes = torch.rand(3, 5, 5, 1) * 255, torch.tensor([0, 1, 1])
    with torch.no_grad():
        activation = network.features(model.preprocess(pixels))
    weight = network.classify.weight[classes]
    expected = torch.relu(torch.einsum("nk,nkhw->nhw", weight, activation)) / 25
    found = class_activation(model, pixels, classes)
    torch.testing.assert_close(found.grad_cam, expected)
    torch.testing.assert_close(found.mean_map, activation.mean(dim=1))


def test_the_plane_of_flat_features_loses_nothing_and_keeps_two_clouds_apart() -> None:
    rng = np.random.default_rng(0)
    clouds = rng.normal(0, 1, (60, 2)) + np.repeat([[0, 0], [40, 0]], 30, axis=0)
    plane = feature_plane(clouds @ rng.normal(0, 1, (2, 20)))
    assert plane.explained == pytest.approx(1)
    for points in (plane.pca, plane.tsne):
        first, second = points[:30], points[30:]
        apart = np.linalg.norm(first.mean(0) - second.mean(0))
        assert apart > 2 * np.linalg.norm(first - first.mean(0), axis=1).mean()


def test_released_transfer_finds_attacks_where_there_are_none() -> None:
    """It asks for clean images that it was fitted on."""
    rng = np.random.default_rng(0)
    scores = null_transfer(rng.normal(0, 1, (900, 128)), (rng.random(900) < 0.3).astype(int))
    assert scores.kd > 0.99
    assert scores.dfeat > 0.95
    assert scores.qfeat > 0.95
