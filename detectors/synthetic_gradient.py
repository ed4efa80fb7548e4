"""A small network that foretells, from the smoothed image, what a step along the model's own
gradient looks like."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from detectors.aligned import mean_product
from detectors.descent import Progress, descend

POOLED = 2
"""Rows and columns of the areas whose means it sees."""
PATCH = 8
"""Pixels along the side of a square that it takes in, and paints, as one."""
WIDTH = 48
BLOCKS = 2
STEPS, EPOCHS = 2400, 7
"""At most, each: of training."""
BATCH = 16
LEARNING_RATE = 3e-3


class SyntheticGradient(nn.Module):
    """The network's input ``float32[N, C, h, w]`` and ``detectors.aligned.Seed``'s weights of the
    logits ``float32[N, L]`` to a picture ``float32[N, C, h, w]``, up to whole patches, whose upper
    left ``h - 2`` by ``w - 2`` pixels correlate with ``Aligned.step`` of the gradient; its scale
    means nothing.

    Synthetic gradients (Jaderberg et al. 2017, arXiv 1608.05343) foretell what backpropagation
    would bring, to save it. Hardened models' gradients are regular enough that some thousand
    parameters foretell a tenth to a third of their finest texture, in the sense of a correlation,
    which is enough to find a pattern that fills ten thousand pixels (docs/evidence.md). It sees
    means of areas alone: so what is correlated with its picture, the texture between the pixels of
    an area, is not what the picture was made from.

    Linear in the weights, as the gradient is.
    """

    def __init__(self, channels: int, logits: int) -> None:
        super().__init__()
        side = PATCH // POOLED
        self.first = nn.Conv2d(channels, WIDTH, side, side, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(WIDTH), nn.ReLU()]
        for _ in range(BLOCKS):
            layers += [
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH, bias=False),
                nn.BatchNorm2d(WIDTH),
                nn.ReLU(),
                nn.Conv2d(WIDTH, WIDTH, 1, bias=False),
                nn.BatchNorm2d(WIDTH),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)
        self.towards = nn.Linear(logits, WIDTH, bias=False)
        self.paint = nn.ConvTranspose2d(WIDTH, channels, PATCH, PATCH, bias=False)

    def forward(self, x: Tensor, seed: Tensor) -> Tensor:
        seen = self.first(functional.avg_pool2d(self.filled(x), POOLED))
        painted: Tensor = self.paint(self.strokes(seen, seed))
        return painted

    def filled(self, x: Tensor) -> Tensor:
        """To whole patches."""
        right, below = -x.shape[3] % PATCH, -x.shape[2] % PATCH
        if right + below == 0:
            return x
        return functional.pad(x, (0, right, 0, below), mode="replicate")

    def strokes(self, seen: Tensor, seed: Tensor) -> Tensor:
        """From what the first layer sees, ``float32[N, WIDTH, h / 8, w / 8]``: how much of each
        brush a patch is painted with, as large."""
        strokes: Tensor = self.layers(seen) * self.towards(seed)[:, :, None, None]
        return strokes

    @torch.enable_grad()
    def teach(
        self,
        x: Tensor,
        seeds: Tensor,
        steps: Tensor,
        seed: int,
        progress: Progress = lambda *_: None,
    ) -> None:
        """Train it to correlate. Deterministic for a seed.

        Args:
            x: ``[M, C, h, w]``, images as the model sees them.
            seeds: ``float32[M, L]``, of the model's answers.
            steps: ``[M, C, h - 2, w - 2]``, ``Aligned.step`` of the model's gradients at ``x``.
        """
        generator = torch.Generator().manual_seed(seed)

        def loss() -> Tensor:
            rows = torch.randint(0, len(x), (BATCH,), generator=generator)
            foretold = self(x[rows].float(), seeds[rows])
            return 1 - correlation(foretold, steps[rows].float()).mean()

        descend(
            self,
            loss,
            steps=min(STEPS, EPOCHS * -(-len(x) // BATCH)),
            learning_rate=LEARNING_RATE,
            weight_decay=0.01,
            progress=progress,
        )
        with torch.no_grad():  # to a length of about one, as correlations are computed
            length = self(x[:BATCH].float(), seeds[:BATCH]).square().mean().sqrt()
            self.paint.weight /= length.clamp(min=1e-12)


def correlation(picture: Tensor, step: Tensor) -> Tensor:
    """``float32[N]``, about zero: of a picture ``[N, C, h', w']`` with ``[N, C, h, w]``, which is
    no larger."""
    a, b = picture[:, :, : step.shape[2], : step.shape[3]], step
    lengths = mean_product(a, a) * mean_product(b, b)
    return mean_product(a, b) / lengths.clamp(min=1e-12).sqrt()
