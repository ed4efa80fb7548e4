"""Statistics of the picture itself, which no network has chosen: texture, tones and layout."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.preprocess import Preprocess

LAYOUT = 8
"""Rows and columns of the layout."""
LEVELS = 4  # of the wavelet pyramid, at most; texture coarser than 16 pixels is layout
TONES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of the way from black to white."""
DEVIATIONS = (-1.6, -0.8, 0.0, 0.8, 1.6)
"""Standard deviations from the picture's own mean."""
SOFTNESS = 12.0  # a tone counts as brighter than another over a tenth of the scale, not at once
SMALLEST = 1e-7


class Picture(nn.Module):
    """The network's input ``float32[N, C, h, w]`` to ``float32[N, texture + 64]``.

    *Texture and tones*: log energies of the Haar wavelet's three bands at every level (Mallat 1989:
    the energies that tell textures apart), mean and contrast, and how much of the picture is
    brighter than each of ten tones, five of the scale and five of its own. In colour also mean and
    spread of two colour differences, and how far from gray it is. *Layout*: the picture in 8 x 8
    areas, of mean 0 and deviation 1.

    What a diagnostic network has learnt to ignore is here: to a network for chest X-rays a skin
    lesion may look like a lung; its texture and its layout do not.
    """

    bands: Tensor
    rows: Tensor
    columns: Tensor
    gain: Tensor
    bias: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        height, width = preprocess.spec.size
        self.colour = preprocess.spec.channels == 3
        self.levels = max(1, min(LEVELS, int(math.log2(min(height, width) / LAYOUT))))
        signs = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
        self.register_buffer("bands", signs.float().reshape(4, 1, 2, 2) / 4)
        self.register_buffer("rows", _areas(height >> self.levels))
        self.register_buffer("columns", _areas(width >> self.levels).T.contiguous())
        self.register_buffer("gain", preprocess.gain.detach().clone())
        self.register_buffer("bias", preprocess.bias.detach().clone())

    @property
    def width(self) -> int:
        """Columns in all."""
        return 3 * self.levels + 2 + len(TONES) + len(DEVIATIONS) + 5 * self.colour + LAYOUT**2

    def forward(self, x: Tensor) -> Tensor:
        shares = (x - self.bias) / (255 * self.gain)
        gray = shares.mean(dim=1, keepdim=True)
        energies = []
        for _ in range(self.levels):
            split = functional.conv2d(gray, self.bands, stride=2)
            energies.append(split[:, 1:].square().mean(dim=(2, 3)))
            gray = split[:, :1]
        flat = gray.flatten(1)
        mean = flat.mean(dim=1, keepdim=True)
        deviation = (flat - mean).square().mean(dim=1, keepdim=True).clamp(min=SMALLEST).sqrt()
        relative = (flat - mean) / deviation
        parts = [
            torch.cat(energies, dim=1).clamp(min=SMALLEST).log(),
            mean,
            deviation.log(),
            *(_brighter(flat, tone, SOFTNESS) for tone in TONES),
            *(_brighter(relative, tone, SOFTNESS / 2) for tone in DEVIATIONS),
        ]
        if self.colour:
            parts += _colour(shares, 1 << (self.levels - 1))
        areas = torch.matmul(torch.matmul(self.rows, gray[:, 0]), self.columns).flatten(1)
        areas = areas - areas.mean(dim=1, keepdim=True)
        spread = areas.square().mean(dim=1, keepdim=True).clamp(min=SMALLEST).sqrt()
        return torch.cat([*parts, areas / spread], dim=1)


def split_picture(picture: Tensor) -> tuple[Tensor, ...]:
    """``float32[N, P]`` to texture and layout; to nothing where there are no statistics."""
    if picture.shape[1] == 0:
        return ()
    return picture[:, : -(LAYOUT**2)], picture[:, -(LAYOUT**2) :]


def _brighter(tones: Tensor, than: float, softness: float) -> Tensor:
    return torch.sigmoid(softness * (tones - than)).mean(dim=1, keepdim=True)


def _colour(shares: Tensor, pool: int) -> list[Tensor]:
    small = functional.avg_pool2d(shares, pool)
    differences = torch.stack([small[:, 0] - small[:, 1], small[:, 2] - small[:, 1]], dim=1)
    flat = differences.flatten(2)
    mean = flat.mean(dim=2)
    spread = (flat - mean[:, :, None]).square().mean(dim=2)
    grayness = (small - small.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2, 3))
    return [
        mean,
        spread.clamp(min=SMALLEST).log() / 2,
        grayness.clamp(min=SMALLEST).log()[:, None],
    ]


def _areas(size: int) -> Tensor:
    """``float32[8, size]``: means over eighths of an axis, a pixel shared by the eighths it lies
    in."""
    edges = torch.arange(LAYOUT + 1) * size / LAYOUT
    pixels = torch.arange(size)
    lower = torch.maximum(edges[:-1, None], pixels)
    upper = torch.minimum(edges[1:, None], pixels + 1)
    return (upper - lower).clamp(min=0) * LAYOUT / size
