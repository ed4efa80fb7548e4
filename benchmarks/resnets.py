"""ResNet-18 and ResNet-50 (He et al. 2016) for images of 224 x 224, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


class _Block(nn.Module):
    def __init__(self, body: Sequence[nn.Module], shortcut: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        self.shortcut = shortcut
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))


def _basic(inputs: int, width: int, stride: int) -> tuple[_Block, int]:
    same = stride == 1 and inputs == width
    body = [_convolution(inputs, width, 3, stride), nn.ReLU(), _convolution(width, width, 3)]
    return _Block(body, nn.Identity() if same else _convolution(inputs, width, 1, stride)), width


def _bottleneck(inputs: int, width: int, stride: int) -> tuple[_Block, int]:
    outputs = 4 * width
    same = stride == 1 and inputs == outputs
    body = [
        _convolution(inputs, width, 1),
        nn.ReLU(),
        _convolution(width, width, 3, stride),
        nn.ReLU(),
        _convolution(width, outputs, 1),
    ]
    return _Block(
        body, nn.Identity() if same else _convolution(inputs, outputs, 1, stride)
    ), outputs


class ResNet(nn.Module):
    """Layers in order. A module of its own, so that wrappers call it and do not take it apart."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


DEPTHS = {"resnet18": (_basic, (2, 2, 2, 2)), "resnet50": (_bottleneck, (3, 4, 6, 3))}


def build(name: str, classes: int, seed: int = 0) -> nn.Module:
    """``float32[N, 3, 224, 224] -> float32[N, classes]``, randomly initialised, with the running
    statistics of one random batch, so that normalisation does what it does in a trained network."""
    torch.manual_seed(seed)
    block, depths = DEPTHS[name]
    layers: list[nn.Module] = [_convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, depth in enumerate(depths):
        for i in range(depth):
            made, inputs = block(inputs, 64 * 2**stage, 2 if stage and not i else 1)
            layers.append(made)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    network = ResNet(layers)
    with torch.no_grad():
        network.train()(torch.rand(8, 3, 224, 224) * 4 - 2)
    return network.eval()
