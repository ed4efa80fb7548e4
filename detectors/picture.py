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
SMALLEST = 1e-3
"""Root of a sum of squares below which there is nothing: far less than one grey level makes."""
FAINTEST = 1e-7
"""The same of a mean of squares."""
HEIGHTS = (2.0, 6.0, 18.0)
"""Grey levels above which a wavelet coefficient counts no more."""
FINEST = 0.01
"""Grey levels: least of a mean of coefficients."""
TINT = 4.0
"""Grey levels, mean over a picture of how far its channels are from their mean, below which it
counts as gray: JPEG's chroma and a coloured label stay below it."""
SPARSE = 8
"""Every so many rows and columns tell a picture's tint."""
ROUGH = 24
"""Rows and columns of pixels that the roughest place is made of."""
ROUGHEST = 3
"""Columns of the statistics, the last, that tell it: by as many levels' bands."""


class Picture(nn.Module):
    """The network's input ``float32[N, C, h, w]`` to its statistics
    ``float32[N, texture + 64 + 3]`` and its grain.

    *Texture and tones*: log amplitudes of the Haar wavelet's three bands at every level (Mallat
    1989: the energies that tell textures apart), mean and contrast, and how much of the picture is
    brighter than each of ten tones, five of the scale and five of its own. In colour also mean and
    spread of two colour differences, and how far from gray it is; for a network that sees gray, how
    far from that the file's pixels are, which the network's input does not tell. *Layout*: the
    picture in 8 x 8 areas, of mean 0 and length 1. *Roughest place*, the last three columns: logs
    of the largest mean amplitude over 24 x 24 pixels of the second level's bands, the first's and
    the third's. A patch that an attacker has painted is rougher than any place of an honest
    picture, and too small to move what is a mean of the whole.

    *Grain*, ``float32[N, 9 L]`` of L levels: logs of the mean amplitude of every band, each
    coefficient cut off at three heights. The energies above are ruled by a few edges; these by
    what is everywhere: a text, a black corner or dead pixels move them little, a step of some grey
    levels in every pixel much.

    What a diagnostic network has learnt to ignore is here: to a network for chest X-rays a skin
    lesion may look like a lung; its texture and its layout do not.
    """

    third: Tensor
    further: Tensor
    first: Tensor
    areas: Tensor
    details: Tensor
    lower: Tensor
    slopes: Tensor
    thresholds: Tensor
    gain: Tensor
    bias: Tensor
    heights: Tensor
    grey: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        height, width = preprocess.spec.size
        self.colour = preprocess.spec.channels == 3
        self.levels = max(2, min(LEVELS, int(math.log2(min(height, width) / LAYOUT))))
        signs = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
        bands = signs.float().reshape(4, 1, 2, 2) / 4
        # A later level is made from the mean alone, the first of the bands. With weights of zero
        # for the others it need not be copied out of them.
        self.register_buffer("third", functional.pad(bands, (0, 0, 0, 0, 0, 6)))
        self.register_buffer("further", functional.pad(bands, (0, 0, 0, 0, 0, 3)))
        # The first two levels at once, on areas of 4 x 4 pixels: the mean, the second level's
        # bands, and the first level's in one corner of each area, which is enough of them.
        mean_first = bands.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) / 4
        corner = functional.pad(bands[1:], (0, 2, 0, 2))
        first = torch.cat([mean_first, corner])
        if self.colour:  # of the mean of three channels, and the mean of each
            each = torch.eye(3)[:, :, None, None].expand(3, 3, 4, 4) / 16
            first = torch.cat([first.expand(7, 3, 4, 4) / 3, each])
        self.register_buffer("first", first)
        rows, columns = _areas(height >> self.levels), _areas(width >> self.levels)
        for area in (4, 8):  # of the first two levels at once, and of the third
            self.register_buffer(f"rows{area}", _places(height // area, ROUGH // area))
            across = _places(width // area, ROUGH // area)
            self.register_buffer(f"columns{area}", across.T.contiguous())
        self.register_buffer("areas", torch.kron(rows, columns).T.contiguous())
        means = {0, *range(7, 7 + 4 * (self.levels - 2), 4)}
        channels = range(7 + 4 * (self.levels - 2))  # of all convolutions
        details = torch.tensor([i for i in channels if i not in means])
        self.register_buffer("details", details)
        # by level, then by height: the six bands of the first two levels come at once
        first_two, later = details[:6], details[6:].reshape(-1, 3)
        heights = len(channels) * torch.arange(len(HEIGHTS))[:, None]
        lower = torch.cat([(heights + bands).flatten() for bands in (first_two, *later)])
        self.register_buffer("lower", lower)
        gain, bias = preprocess.gain.detach().clone(), preprocess.bias.detach().clone()
        scale, black = float(255 * gain.mean()), float(bias.mean())
        self.register_buffer("grey", gain.mean())
        self.register_buffer("heights", gain.mean() * torch.tensor(HEIGHTS)[:, None, None])
        # of the picture as it is, and of the picture centred and of unit length
        self.length = (height >> self.levels) * (width >> self.levels)
        slopes = torch.tensor([SOFTNESS / scale, SOFTNESS / 2 * self.length**0.5])
        tones = torch.stack(
            [
                SOFTNESS / scale * (black + scale * torch.tensor(TONES)),
                SOFTNESS / 2 * torch.tensor(DEVIATIONS),
            ]
        )
        self.register_buffer("slopes", slopes[:, None, None])
        self.register_buffer("thresholds", tones[:, :, None])
        self.register_buffer("gain", gain)
        self.register_buffer("bias", bias)

    @property
    def width(self) -> int:
        """Columns of the statistics."""
        colour = 5 if self.colour else 1
        return 3 * self.levels + 2 + len(TONES) + len(DEVIATIONS) + colour + LAYOUT**2 + ROUGHEST

    @property
    def grain_width(self) -> int:
        """Columns of the grain."""
        return 3 * self.levels * len(HEIGHTS)

    def forward(self, x: Tensor, image: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """
        Args:
            image: the decoded pixels that ``x`` was made from, ``uint8[N, H, W, 1 or 3]``; gray if
                None.
        """
        # In the network's own units, whose scale no distance depends on, and in few operations: a
        # batch of one pays for each.
        bands = quarter = functional.conv2d(x, self.first, stride=4)
        if self.colour:
            bands = quarter[:, :7]
        rough = [self._roughest(bands[:, 1:], 4)]
        measured = [self._measured(bands)]
        for level in range(2, self.levels):
            weight = self.third if level == 2 else self.further
            bands = functional.conv2d(bands, weight, stride=2)
            measured.append(self._measured(bands))
            if level == 2:
                rough.append(self._roughest(bands[:, 1:], 8))
        if self.levels == 2:  # of so small a picture there is no third
            rough.append(rough[0][:, :1])
        energies, below = zip(*measured, strict=True)
        lower = torch.cat(below, dim=2).flatten(1).index_select(1, self.lower)
        grain = (lower / self.grey).clamp(min=FINEST).log()
        texture = torch.cat(energies, dim=1).index_select(1, self.details).sqrt()
        gray = bands[:, 0]
        flat = gray.flatten(1)
        mean = flat.mean(dim=1, keepdim=True)
        centred = flat - mean
        contrast = torch.linalg.vector_norm(centred, dim=1, keepdim=True).clamp(min=SMALLEST)
        both = torch.cat([flat, centred / contrast], dim=1).reshape(-1, 2, 1, self.length)
        brighter = torch.sigmoid(both * self.slopes - self.thresholds).mean(dim=3).flatten(1)
        # as many pixels are in every area: they are as centred as the pixels
        layout = torch.matmul(centred, self.areas)
        spread = torch.linalg.vector_norm(layout, dim=1, keepdim=True).clamp(min=SMALLEST)
        logs = torch.cat([texture.clamp(min=SMALLEST), contrast], dim=1).log()
        colour = self._colour(quarter[:, 7:]) if self.colour else _tint(mean, image)
        roughest = (torch.cat(rough, dim=1) / self.grey).clamp(min=FINEST).log()
        return torch.cat([logs, mean, brighter, colour, layout / spread, roughest], dim=1), grain

    def _measured(self, bands: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of squares of all bands, ``float32[N, B]``, and their mean amplitudes below each
        height, ``float32[N, 3, B]``. Over one axis, and no norms: ONNX Runtime is faster so."""
        flat = bands.flatten(2)
        below = torch.minimum(flat[:, None].abs(), self.heights).mean(dim=3)
        return (flat * flat).sum(dim=2), below

    def _roughest(self, bands: Tensor, area: int) -> Tensor:
        """From the bands of L levels of every area, ``float32[N, 3 L, h / area, w / area]``: the
        largest mean amplitude of a place, ``float32[N, L]``. By two products, because ONNX Runtime
        takes ten times as long to pool."""
        levels = bands.abs().reshape(-1, bands.shape[1] // 3, 3, *bands.shape[2:]).mean(dim=2)
        rows, columns = self.get_buffer(f"rows{area}"), self.get_buffer(f"columns{area}")
        return torch.matmul(torch.matmul(rows, levels), columns).amax(dim=(2, 3))

    def _colour(self, quarter: Tensor) -> Tensor:
        """From three channels of a quarter of the side, ``float32[N, 5]``: mean and spread of two
        colour differences; how far from gray."""
        small = functional.avg_pool2d(quarter, 1 << max(self.levels - 3, 0))
        shares = ((small - self.bias) / (255 * self.gain)).flatten(2)
        differences = shares[:, ::2] - shares[:, 1:2]
        mean = differences.mean(dim=2)
        spread = (differences - mean[:, :, None]).square().mean(dim=2)
        grayness = (shares - shares.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2))[:, None]
        return torch.cat([mean, torch.cat([spread, grayness], 1).clamp(min=FAINTEST).log()], dim=1)


def _tint(like: Tensor, image: Tensor | None) -> Tensor:
    """``float32[N, 1]``: log of how far from gray."""
    if image is None:
        return torch.full_like(like, math.log(TINT))
    some = image[:, ::SPARSE, ::SPARSE].to(like.dtype)
    apart = (some - some.mean(dim=3, keepdim=True)).abs().mean(dim=(1, 2, 3))
    return apart.clamp(min=TINT).log()[:, None]


def _areas(size: int) -> Tensor:
    """``float32[8, size]``: means over eighths of an axis, a pixel shared by the eighths it lies
    in."""
    edges = torch.arange(LAYOUT + 1) * size / LAYOUT
    pixels = torch.arange(size)
    lower = torch.maximum(edges[:-1, None], pixels)
    upper = torch.minimum(edges[1:, None], pixels + 1)
    return (upper - lower).clamp(min=0) * LAYOUT / size


def _places(areas: int, size: int) -> Tensor:
    """``float32[P, areas]``: means over ``size`` neighbours on an axis, or over all of fewer."""
    size = min(size, areas)
    starts = torch.arange(areas - size + 1)[:, None]
    at = torch.arange(areas)
    return ((at >= starts) & (at < starts + size)).float() / size
