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
    first: Tensor
    rows: Tensor
    columns: Tensor
    tones: Tensor
    means: Tensor
    deviations: Tensor
    slopes: Tensor
    gain: Tensor
    bias: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        height, width = preprocess.spec.size
        self.colour = preprocess.spec.channels == 3
        self.levels = max(2, min(LEVELS, int(math.log2(min(height, width) / LAYOUT))))
        signs = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
        bands = signs.float().reshape(4, 1, 2, 2) / 4
        self.register_buffer("bands", bands)
        # The first two levels at once, on areas of 4 x 4 pixels: the mean, the second level's
        # bands, and the first level's in one corner of each area, which is enough of them.
        mean_first = bands.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) / 4
        corner = functional.pad(bands[1:], (0, 2, 0, 2))
        first = torch.cat([mean_first, corner])
        if self.colour:  # of the mean of three channels, and the mean of each
            each = torch.eye(3)[:, :, None, None].expand(3, 3, 4, 4) / 16
            first = torch.cat([first.expand(7, 3, 4, 4) / 3, each])
        self.register_buffer("first", first)
        self.register_buffer("rows", _areas(height >> self.levels))
        self.register_buffer("columns", _areas(width >> self.levels).T.contiguous())
        gain, bias = preprocess.gain.detach().clone(), preprocess.bias.detach().clone()
        scale, black = float(255 * gain.mean()), float(bias.mean())
        own, relative = torch.ones(len(TONES)), torch.ones(len(DEVIATIONS))
        absolute = black + scale * torch.tensor(TONES)
        self.register_buffer("tones", torch.cat([absolute, 0 * relative])[None])
        self.register_buffer("means", torch.cat([0 * own, relative])[None])
        self.register_buffer("deviations", torch.cat([0 * own, torch.tensor(DEVIATIONS)])[None])
        self.register_buffer("slopes", torch.cat([SOFTNESS / scale * own, 0 * relative])[None])
        self.register_buffer("gain", gain)
        self.register_buffer("bias", bias)

    @property
    def width(self) -> int:
        """Columns in all."""
        return 3 * self.levels + 2 + len(TONES) + len(DEVIATIONS) + 5 * self.colour + LAYOUT**2

    def forward(self, x: Tensor) -> Tensor:
        # In the network's own units, whose scale no distance depends on, and in few operations: a
        # batch of one pays for each.
        bands = quarter = functional.conv2d(x, self.first, stride=4)
        if self.colour:
            bands = quarter[:, :7]
        energies = [(bands * bands).mean(dim=(2, 3))[:, 1:]]
        for _ in range(self.levels - 2):
            bands = functional.conv2d(bands[:, :1], self.bands, stride=2)
            energies.append((bands * bands).mean(dim=(2, 3))[:, 1:])
        gray = bands[:, :1]
        flat = gray.flatten(1)
        mean = flat.mean(dim=1, keepdim=True)
        centred = flat - mean
        variance = (centred * centred).mean(dim=1, keepdim=True).clamp(min=SMALLEST)
        deviation = variance.sqrt()
        than = self.tones + mean * self.means + deviation * self.deviations
        slope = self.slopes + SOFTNESS / 2 / deviation * self.means
        brighter = torch.sigmoid(slope[:, :, None] * (flat[:, None] - than[:, :, None])).mean(dim=2)
        logs = torch.cat([*energies, variance], dim=1).clamp(min=SMALLEST).log()
        areas = torch.matmul(torch.matmul(self.rows, gray[:, 0]), self.columns).flatten(1)
        areas = areas - areas.mean(dim=1, keepdim=True)
        spread = (areas * areas).mean(dim=1, keepdim=True).clamp(min=SMALLEST).sqrt()
        colour = [self._colour(quarter[:, 7:])] if self.colour else []
        return torch.cat([logs, mean, brighter, *colour, areas / spread], dim=1)

    def _colour(self, quarter: Tensor) -> Tensor:
        """From three channels of a quarter of the side, ``float32[N, 5]``: mean and spread of two
        colour differences; how far from gray."""
        small = functional.avg_pool2d(quarter, 1 << max(self.levels - 3, 0))
        shares = ((small - self.bias) / (255 * self.gain)).flatten(2)
        differences = shares[:, ::2] - shares[:, 1:2]
        mean = differences.mean(dim=2)
        spread = (differences - mean[:, :, None]).square().mean(dim=2)
        grayness = (shares - shares.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2))[:, None]
        return torch.cat([mean, torch.cat([spread, grayness], 1).clamp(min=SMALLEST).log()], dim=1)


def _areas(size: int) -> Tensor:
    """``float32[8, size]``: means over eighths of an axis, a pixel shared by the eighths it lies
    in."""
    edges = torch.arange(LAYOUT + 1) * size / LAYOUT
    pixels = torch.arange(size)
    lower = torch.maximum(edges[:-1, None], pixels)
    upper = torch.minimum(edges[1:, None], pixels + 1)
    return (upper - lower).clamp(min=0) * LAYOUT / size
