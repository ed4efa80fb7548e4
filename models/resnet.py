"""Residual networks in plain torch (He et al., 2016, arXiv 1512.03385, basic blocks).

As in Ma et al. (2021) a linear embedding of 128 values, without activation, stands between the
pooled features and the classifying layer: the layer on which the paper's detectors live.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _convolution(outputs, outputs, 3, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                _convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """``float32[N, channels, h, w] -> float32[N, logits]``, with one stage for each width."""

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Sequence[int],
        channels: int,
        logits: int,
        embedding: int = 128,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _convolution(channels, widths[0], 7, 2),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
        )
        inputs = widths[0]
        stages = []
        for i, (width, depth) in enumerate(zip(widths, blocks, strict=True)):
            stride = 1 if i == 0 else 2
            stages.append(
                nn.Sequential(
                    BasicBlock(inputs, width, stride),
                    *(BasicBlock(width, width, 1) for _ in range(depth - 1)),
                )
            )
            inputs = width
        self.stages = nn.Sequential(*stages)
        self.embedding = nn.Linear(inputs, embedding)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(embedding, logits)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, BasicBlock):
                # every block starts as its shortcut (Goyal et al., 2017, arXiv 1706.02677)
                nn.init.zeros_(module.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stages(self.stem(x)).mean(dim=(2, 3))
        logits: Tensor = self.classify(self.dropout(self.embedding(features)))
        return logits


def resnet(
    widths: Sequence[int] = (32, 64, 128, 192),
    blocks: Sequence[int] = (2, 2, 2, 2),
    channels: int = 1,
    logits: int = 2,
) -> ResNet:
    """Factory for ``--model models.resnet:resnet``."""
    return ResNet(widths, blocks, channels, logits)
