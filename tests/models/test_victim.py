"""The copy that attacks differentiate is the model, only cheaper, and can travel."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.diagnostic import DiagnosticModel
from models.resnet import resnet
from models.spec import ModelSpec, Preprocessing
from models.thin_convolution import ThinConvolution
from models.victim import Victim


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [
        (7, 2, 3, (31, 40)),
        (3, 1, 1, (16, 17)),
        (5, 3, 0, (20, 23)),
        (4, 4, 2, (30, 29)),
        (1, 1, 0, (9, 9)),
        ((3, 5), 2, (0, 2), (16, 15)),
    ],
)
def test_a_thin_convolution_has_the_same_output_and_input_gradient(
    channels, kernel, stride, padding, size
):
    torch.manual_seed(0)
    convolution = nn.Conv2d(channels, 5, kernel, stride, padding).double()
    x = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
    expected, found = convolution(x), ThinConvolution(convolution)(x)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, x, weights), torch.autograd.grad(expected, x, weights)
    )


@pytest.mark.parametrize(
    "convolution",
    [nn.Conv2d(8, 8, 3), nn.Conv2d(2, 2, 3, groups=2), nn.Conv2d(1, 1, 3, dilation=2)],
)
def test_other_convolutions_are_left_alone(convolution):
    assert not ThinConvolution.fits(convolution)


def model() -> DiagnosticModel:
    torch.manual_seed(1)
    network = resnet([8, 16], [1, 1], channels=1, logits=2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    spec = ModelSpec(name="small", classes=("a", "b"), preprocessing=Preprocessing(resize=(32, 32)))
    return DiagnosticModel(spec, network)


def gradient(function: nn.Module, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = pixels.clone().requires_grad_()
    logits = function(pixels)
    (slope,) = torch.autograd.grad(logits.logsumexp(dim=1).sum(), pixels)
    return logits.detach(), slope


def test_the_victim_has_the_models_logits_and_gradients_and_wants_none_for_weights():
    original = model()
    victim = Victim(original)
    for side in (40, 32):  # resized, and as large as the network's input
        pixels = torch.rand(3, side, side, 1) * 255
        both = zip(gradient(victim, pixels), gradient(original, pixels), strict=True)
        for found, expected in both:
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in victim.parameters())
    assert any(isinstance(module, ThinConvolution) for module in victim.modules())


def test_the_model_stays_where_it_is_when_its_victim_moves():
    original = model()
    Victim(original).double()
    tensors = (*original.parameters(), *original.buffers())
    assert all(t.dtype == torch.float32 for t in tensors if t.is_floating_point())


def test_a_victim_sent_to_another_process_is_folded_anew_to_the_same_numbers():
    cloudpickle = pytest.importorskip("ray.cloudpickle", reason="pip install 'lazaret[ray]'")
    victim = Victim(model())
    arrived = cloudpickle.loads(cloudpickle.dumps(victim))
    pixels = torch.rand(2, 32, 32, 1) * 255
    for found, expected in zip(gradient(arrived, pixels), gradient(victim, pixels), strict=True):
        assert torch.equal(found, expected)
