"""A small network that reads the high-passed image as steganalysis does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from detectors.descent import Progress, descend, initialise

TRUNCATION = 3.0
"""Grey levels at which residuals saturate: edges must not drown what lies between them."""
WIDTHS = (16, 32)
STEPS, EPOCHS = 500, 20
"""At most, each: of training."""
BATCH = 32
CROP = 112
"""Pixels, at most: the side of the windows that it is trained on. It pools over the whole image,
so a window teaches it as much for a fraction of the work."""
LEARNING_RATE = 2e-3


def kernels() -> Tensor:
    """``float32[8, 5, 5]``: high-pass filters of the spatial rich model (Fridrich and Kodovsky
    2012, IEEE TIFS 7(3)): differences of first, second and third order and the two squares."""
    bank = torch.zeros(8, 5, 5)
    bank[0, 2, 2:4] = torch.tensor([-1.0, 1.0])
    bank[1, 2:4, 2] = torch.tensor([-1.0, 1.0])
    bank[2, 2, 1:4] = torch.tensor([1.0, -2.0, 1.0]) / 2
    bank[3, 1:4, 2] = torch.tensor([1.0, -2.0, 1.0]) / 2
    bank[4, 2, 1:] = torch.tensor([1.0, -3.0, 3.0, -1.0]) / 3
    bank[5, 1:, 2] = torch.tensor([1.0, -3.0, 3.0, -1.0]) / 3
    bank[6, 1:4, 1:4] = torch.tensor([[-1.0, 2, -1], [2, -4, 2], [-1, 2, -1]]) / 4
    bank[7] = (
        torch.tensor(
            [
                [-1.0, 2, -2, 2, -1],
                [2, -6, 8, -6, 2],
                [-2, 8, -12, 8, -2],
                [2, -6, 8, -6, 2],
                [-1, 2, -2, 2, -1],
            ]
        )
        / 12
    )
    return bank


class ResidualNetwork(nn.Module):
    """The network's input ``float32[N, C, h, w]`` to a logit ``float32[N, 1]``: attacked rather
    than noisy.

    High-pass filters in grey levels (``kernels`` to begin with, trained on), truncated, then two
    strided convolutions and a mean over the image. Triage, not evidence: it tells *this model's*
    gradients from noise of the same size, and whoever knows it can avoid it.
    """

    grey: Tensor

    def __init__(self, channels: int, grey: Tensor) -> None:
        """
        Args:
            grey: ``float32[1, C, 1, 1]``, one grey level in the input's units.
        """
        super().__init__()
        self.register_buffer("grey", 1 / grey.detach().clone())
        self.filters = nn.Conv2d(channels, len(kernels()), 5, 2, padding=2, bias=False)
        layers: list[nn.Module] = []
        inputs = len(kernels())
        for width in WIDTHS:
            layers += [
                nn.Conv2d(inputs, width, 3, 2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.classify = nn.Linear(inputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        residuals = torch.tanh(self.filters(x * self.grey) / TRUNCATION)
        logits: Tensor = self.classify(self.layers(residuals).mean(dim=(2, 3)))
        return logits

    @torch.enable_grad()
    def teach(
        self,
        batch: Callable[[torch.Generator], tuple[Tensor, Tensor]],
        seed: int,
        steps: int = STEPS,
        progress: Progress = lambda *_: None,
    ) -> None:
        """Train on what ``batch`` draws: ``float32[M, C, h, w]`` and ``float32[M]``, 1 for
        attacked. Deterministic for a seed."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.filters.weight.copy_(kernels()[:, None] / self.filters.in_channels)
        initialise(self.layers, self.classify, 0.1, generator)

        def loss() -> Tensor:
            x, attacked = batch(generator)
            return functional.binary_cross_entropy_with_logits(self(x)[:, 0], attacked)

        descend(
            self,
            loss,
            steps=steps,
            learning_rate=LEARNING_RATE,
            weight_decay=0.01,
            progress=progress,
        )


def noise_like(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """``x`` in grey levels plus benign noise as large as an attack's: every pixel moved by
    ``level`` up or down, independently or in clumps of neighbours, as signs of gradients come."""
    drawn = torch.randn(x.shape, generator=generator)
    window = int(torch.randint(0, 3, (1,), generator=generator))
    if window:
        drawn = functional.avg_pool2d(drawn, 2 * window + 1, 1, window)
    return x + level * drawn.sign()
