"""Square attack: random squares, kept where they lower the margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from attacks.access import at, scored
from attacks.ball import Ball, Norm
from attacks.minimum import each
from attacks.objective import Model, gaps
from attacks.spec import AttackSpec, Count, Fraction, GreyLevels, Need, Scene

SCHEDULE = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries of 10,000 after each of which the share p is halved (section 3.3)."""
BLOCK = 256
"""Queries whose random numbers are drawn together."""
GRID = 5
"""Tiles a side of the first L2 perturbation (section 3.4)."""


class Drawn(Protocol):
    """Random numbers of images' own."""

    def __call__(self, rows: Tensor, *shape: int) -> Tensor:
        """``float32[M, *shape]``, uniform in 0 to 1, for the images at ``rows``, ``int64[M]``."""
        ...


def square(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    queries: int,
    seeds: Sequence[int],
    norm: Norm = Norm.LINF,
    p: float = 0.8,
    targeted: bool = False,
) -> Tensor:
    """Random search of Andriushchenko et al. (2020), arXiv 1912.00049, algorithms 1 to 3.

    Each query changes one square of the perturbation. The change is kept if the margin falls. An
    image that is fooled asks no more. At most ``queries`` forward passes and no gradient.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        epsilon: budget in grey levels, in ``norm`` (L-inf or L2).
        queries: at most, for each image.
        seeds: one non-negative integer an image.
        p: share of the image that the first squares cover.

    Returns ``float32[N, H, W, C]`` within ε of ``pixels`` and in ``[0, 255]``: where it failed,
    the image of lowest margin.
    """
    height, width, channels = pixels.shape[1:]
    generators = [np.random.default_rng((seed, 0)) for seed in seeds]

    def drawn(rows: Tensor, *shape: int) -> Tensor:
        numbers = [generators[row].random(shape, dtype=np.float32) for row in rows.tolist()]
        return torch.from_numpy(np.stack(numbers)).to(pixels)

    def margins(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """``[M]`` each: the distance to success, and whether the attacker has it."""
        logits, fooled = scored(at(model, rows), x, labels[rows], targeted=targeted)
        nearest = gaps(logits, labels[rows], targeted=targeted).amin(dim=1)
        return nearest.nan_to_num(nan=torch.inf), fooled

    with torch.no_grad():
        rows = torch.arange(len(pixels), device=pixels.device)
        best = pixels.detach().clone()
        if len(rows) == 0:
            return best
        ball = Ball.around(pixels, epsilon, norm)
        x = _stripes(ball, drawn) if norm is Norm.LINF else _tiles(ball, drawn)
        best[rows] = x
        margin, fooled = margins(x, rows)
        numbers = x.new_empty(0)
        for query in range(queries - 1):
            if fooled.any():
                kept = ~fooled
                rows, x, margin = rows[kept], x[kept], margin[kept]
                numbers = numbers[kept] if query else numbers
                ball = Ball.around(pixels[rows], epsilon, norm)
            if len(rows) == 0:
                break
            if query % BLOCK == 0:
                numbers = drawn(rows, BLOCK, 5 + channels)
            side = _side(p, query, queries, height, width, norm)
            draw = _Draw.of(numbers[:, query % BLOCK], side, height, width)
            candidate = (
                _paint(ball, x, draw, side) if norm is Norm.LINF else _move(ball, x, draw, side)
            )
            new_margin, fooled = margins(candidate, rows)
            better = fooled | (new_margin < margin)
            x = torch.where(each(better), candidate, x)
            margin = torch.where(better, new_margin, margin)
            best[rows] = x
    return best


@dataclass(frozen=True, slots=True)
class _Draw:
    """One query's random choices, for M images."""

    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]
    """Upper left corners of two windows: rows and columns, ``int64[M]``."""
    upright: Tensor
    """``bool[M]``."""
    signs: Tensor
    """-1 or 1, ``float32[M, C]``."""

    @classmethod
    def of(cls, numbers: Tensor, side: int, height: int, width: int) -> _Draw:
        """From ``float32[M, 5 + C]`` uniform in 0 to 1."""

        def place(column: int, length: int) -> Tensor:
            last = length - side
            return (numbers[:, column] * (last + 1)).long().clamp(max=last)

        return cls(
            (place(0, height), place(1, width)),
            (place(2, height), place(3, width)),
            numbers[:, 4] < 0.5,
            _signs(numbers[:, 5:]),
        )


def _side(p: float, query: int, queries: int, height: int, width: int, norm: Norm) -> int:
    """Side of the square in pixels. L2 needs an odd one of at least 3, for a centre."""
    passed = query * 10_000 // queries
    share = p / 2 ** sum(passed > end for end in SCHEDULE)
    side = round(sqrt(share * height * width))
    if norm is Norm.L2:
        side = max(side, 3) | 1
    return min(max(side, 1), height, width)


def _stripes(ball: Ball, drawn: Drawn) -> Tensor:
    """Start of the L-inf attack: vertical stripes one pixel wide, ±ε in each channel."""
    count, _, width, channels = ball.source.shape
    everyone = torch.arange(count)
    return ball.project(ball.source + ball.epsilon * _signs(drawn(everyone, 1, width, channels)))


def _paint(ball: Ball, x: Tensor, draw: _Draw, side: int) -> Tensor:
    """Algorithm 2: one square of ±2ε in each channel, clipped to ±ε."""
    mask = _window(draw.first, side, x)
    return ball.project(x + mask * (2 * ball.epsilon) * draw.signs[:, None, None, :])


def _tiles(ball: Ball, drawn: Drawn) -> Tensor:
    """Start of the L2 attack: a grid of the pattern η, each tile of random sign and direction."""
    count, height, width, channels = ball.source.shape
    side = max(min(height, width) // GRID, 1)
    down, across = height // side, width // side
    numbers = drawn(torch.arange(count), down, across, 1 + channels)
    patterns = _either(_eta(side).to(ball.source), numbers[..., 0] < 0.5)
    tiles = patterns[..., None] * _signs(numbers[..., 1:])[:, :, :, None, None, :]
    # [N, down, across, side, side, C] to [N, down * side, across * side, C]
    mosaic = tiles.transpose(2, 3).reshape(count, down * side, across * side, channels)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    change = torch.zeros_like(ball.source)
    change[:, top : top + down * side, left : left + across * side] = mosaic
    length = change.flatten(1).norm(dim=1)
    return ball.project(ball.source + change * each(ball.epsilon / length))


def _move(ball: Ball, x: Tensor, draw: _Draw, side: int) -> Tensor:
    """Algorithm 3: take the norm ν has in two windows, add what ε leaves unused, and put it all
    into the first window, bent towards the pattern η."""
    nu = x - ball.source
    first, second = _window(draw.first, side, x), _window(draw.second, side, x)
    channels = x.shape[3]
    unused = (ball.epsilon**2 - nu.square().sum(dim=(1, 2, 3), keepdim=True)).clamp(min=0)
    in_both = (nu * torch.maximum(first, second)).square().sum(dim=(1, 2), keepdim=True)
    available = (in_both + unused / channels).sqrt()

    eta = _placed(_either(_eta(side).to(x), draw.upright), draw.first, x)
    bent = eta[..., None] * draw.signs[:, None, None, :] + _unit(nu * first)
    return ball.project(
        ball.source + nu * (1 - torch.maximum(first, second)) + _unit(bent) * available
    )


def _eta(side: int) -> Tensor:
    """``float32[side, side]`` of norm 1: two bumps of opposite sign, one above the other
    (equation 2)."""
    upper = side // 2
    eta = torch.cat([_bump(upper, side), -_bump(side - upper, side)])
    return functional.normalize(eta.flatten(), dim=0).view_as(eta)


def _bump(height: int, width: int) -> Tensor:
    """Nested rectangles of weight ``1 / (k + 1)^2``, k the distance from the centre, of norm 1."""
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    distance = torch.maximum(rows[:, None], columns[None])
    nested = max(height, width) // 2 + 1
    weights = 1 / torch.arange(1, nested + 1, dtype=torch.float32).square()
    # the value at distance k: all rectangles from the k-th outwards lie over it
    bump = weights.flip(0).cumsum(0).flip(0)[distance]
    return functional.normalize(bump.flatten(), dim=0).view_as(bump)


def _either(eta: Tensor, upright: Tensor) -> Tensor:
    """``[..., side, side]``: η or its transpose, by ``upright``, ``bool[...]``."""
    return torch.where(upright[..., None, None], eta, eta.T)


def _placed(patterns: Tensor, corner: tuple[Tensor, Tensor], like: Tensor) -> Tensor:
    """``[M, H, W]``: the patterns ``[M, side, side]`` with their corners at ``corner``."""
    count, side = patterns.shape[:2]
    offsets = torch.arange(side, device=like.device)
    image = torch.arange(count, device=like.device)[:, None, None]
    canvas = like.new_zeros(like.shape[:3])
    canvas[
        image, (corner[0][:, None] + offsets)[:, :, None], (corner[1][:, None] + offsets)[:, None]
    ] = patterns
    return canvas


def _window(corner: tuple[Tensor, Tensor], side: int, like: Tensor) -> Tensor:
    """``float32[M, H, W, 1]``: 1 in the square at ``corner``, 0 elsewhere."""

    def covered(start: Tensor, length: int) -> Tensor:
        place = torch.arange(length, device=like.device)
        return (place >= start[:, None]) & (place < start[:, None] + side)

    rows, columns = (covered(start, like.shape[1 + axis]) for axis, start in enumerate(corner))
    return (rows[:, :, None] & columns[:, None, :])[..., None].to(like.dtype)


def _unit(change: Tensor) -> Tensor:
    """``[M, H, W, C]`` with every channel of norm 1, or 0 where it was 0."""
    return change / change.square().sum(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-12)


def _signs(numbers: Tensor) -> Tensor:
    """Uniform numbers in 0 to 1 as -1 or 1."""
    return (numbers < 0.5).to(numbers.dtype) * 2 - 1


class Square(AttackSpec):
    """Spec of ``square``."""

    citation: ClassVar = "Andriushchenko et al. 2020, arXiv 1912.00049, algorithms 1 to 3"
    needs: ClassVar = frozenset({Need.LOGITS})
    smoke: ClassVar = {"queries": 40}

    method: Literal["square"] = "square"
    norm: Literal[Norm.LINF, Norm.L2] = Norm.LINF
    epsilon: GreyLevels
    queries: Count = 5000
    p: Fraction = 0.8
    """Share of the image that the first squares cover; AutoAttack's 0.8 by default."""

    def attack(self, scene: Scene) -> Tensor:
        return square(
            scene.model,
            scene.pixels,
            scene.labels,
            epsilon=self.budget,
            queries=self.queries,
            seeds=scene.seeds,
            norm=self.norm,
            p=self.p,
            targeted=self.targeted,
        )
