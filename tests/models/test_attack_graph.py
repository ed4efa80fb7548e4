"""Networks rewritten for attacks are the same functions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional

from models.attack_graph import chained
from models.diagnostic import DiagnosticModel
from models.frozen_chain import FrozenChain
from models.resnet import resnet
from models.spec import ModelSpec, Preprocessing
from models.victim import Victim

SIDE = 16


class Shortcuts(nn.Module):
    """Sums of every kind, strides, dilation, no bias, a value that is used three times."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=2, dilation=2, bias=False)
        self.down = nn.Conv2d(8, 12, 3, 2, padding=1)
        self.short = nn.Conv2d(8, 12, 1, 2)
        self.third = nn.Conv2d(12, 12, 1)
        self.narrow = nn.Conv2d(12, 12, 1, padding=1)
        self.bias = nn.Conv2d(12, 12, 10)
        self.relu = nn.ReLU(in_place)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.first(x))
        y = self.relu(self.dropout(self.second(y)) + x)
        y = functional.relu(self.down(y) + self.short(y))
        y = self.third(y) + y
        y = torch.relu(self.narrow(y))
        return y * 2 + self.bias(y)  # a sum that broadcasts, and of no convolution


class Mutating(nn.Module):
    """Changes a convolution's input after the convolution has read it."""

    def __init__(self) -> None:
        super().__init__()
        self.short, self.body = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        short = self.short(x)
        x.relu_()
        return short + self.body(x)


class Inputs(nn.Module):
    """Two convolutions of two inputs, with a concatenation and a pool behind a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.pool, self.last = nn.MaxPool2d(3, 2, 1), nn.Conv2d(16, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        one = self.pool(torch.relu(self.left(x)))
        two = self.pool(torch.relu(self.right(x) + x))
        return self.last(torch.cat([one, two], dim=1)) + one[:, :6, 1:-1, 1:-1]


NETWORKS = {
    "shortcuts": lambda: Shortcuts(in_place=False),
    "shortcuts, in place": lambda: Shortcuts(in_place=True),
    "inputs": Inputs,
}


def rewritten(network: nn.Module, x: Tensor) -> nn.Module:
    made = chained(fuse(copy.deepcopy(network).eval()))
    made.requires_grad_(False).to(memory_format=torch.channels_last)
    handles = [
        module.register_forward_pre_hook(lambda m, inputs: m.pack([v.shape for v in inputs]))
        for module in made.modules()
        if isinstance(module, FrozenChain)
    ]
    made(x)
    for handle in handles:
        handle.remove()
    return made


@pytest.mark.parametrize("packed_for", [SIDE, SIDE + 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_rewritten_network_has_the_same_outputs_and_gradients(name, packed_for):
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    if name.startswith("shortcuts") and packed_for != SIDE:
        network.bias = nn.Conv2d(12, 12, 1)
    found = rewritten(network, torch.randn(4, 8, packed_for, packed_for))
    chains = [module for module in found.modules() if isinstance(module, FrozenChain)]
    assert any(chain.packed for chain in chains)
    x = torch.randn(3, 8, SIDE, SIDE, requires_grad=True)
    y, expected = found(x), network(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(found(x), y)
    weights = torch.randn_like(expected)
    (slope,) = torch.autograd.grad(y, x, weights, retain_graph=True)
    (again,) = torch.autograd.grad(y, x, weights)
    (wanted,) = torch.autograd.grad(expected, x, weights)
    torch.testing.assert_close(slope, wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(slope, again)


def test_a_value_that_is_changed_in_its_place_is_changed_when_it_was():
    torch.manual_seed(0)
    network, x = Mutating().eval(), torch.randn(2, 8, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(rewritten(network, x)(x), network(x), rtol=1e-4, atol=1e-5)


def test_a_residual_networks_convolutions_become_one_chain():
    network = resnet([8, 16], [2, 2], channels=1, logits=2)
    victim = Victim(DiagnosticModel(spec(), network))
    (chain,) = (module for module in victim.modules() if isinstance(module, FrozenChain))
    assert len(chain.links) == 9
    assert sum(link.relu for link in chain.links) == 8
    assert sum(link.addend is not None for link in chain.links) == 4
    assert len(chain.packed) == 9


def test_a_gradient_of_a_gradient_is_refused():
    victim = Victim(DiagnosticModel(spec(), resnet([8, 16], [1, 1], channels=1, logits=2)))
    pixels = (torch.rand(1, 32, 32, 1) * 255).requires_grad_()
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(victim(pixels).sum(), pixels, create_graph=True)


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.classify = nn.Conv2d(1, 8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        if y.mean() > 0:
            y = -y
        return self.classify(torch.relu(y).mean(dim=(2, 3)))


def test_a_network_that_cannot_be_traced_stays_as_it_is():
    model = DiagnosticModel(spec(head="sigmoid"), Untraceable())
    victim = Victim(model)
    assert not any(isinstance(module, FrozenChain) for module in victim.modules())
    pixels = torch.rand(2, 32, 32, 1) * 255
    torch.testing.assert_close(victim(pixels), model(pixels))


@pytest.mark.parametrize("logits", [1, 2])
def test_an_images_numbers_do_not_depend_on_its_batch_mates(logits):
    torch.manual_seed(0)
    head = "sigmoid" if logits == 1 else "softmax"
    model = DiagnosticModel(spec(head), resnet([8, 16], [2, 1], channels=1, logits=logits))
    victim = Victim(model)
    first, second = torch.rand(2, 4, 32, 32, 1) * 255
    second[0] = first[0]

    def slope(function: nn.Module, pixels: Tensor) -> Tensor:
        pixels = pixels.clone().requires_grad_()
        logits = function(pixels)
        return torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), pixels)[0]

    assert torch.equal(slope(victim, first)[0], slope(victim, second)[0])
    torch.testing.assert_close(slope(victim, first), slope(model, first), rtol=1e-4, atol=1e-7)


def spec(head: str = "softmax") -> ModelSpec:
    return ModelSpec(
        name="small",
        classes=("a", "b"),
        head=head,
        preprocessing=Preprocessing(resize=(32, 32)),
    )
