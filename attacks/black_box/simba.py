"""SimBA: one basis vector at a time, forwards or backwards, kept if the class loses."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from math import ceil
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from attacks.access import at, scored
from attacks.ball import WHITE, Norm, size
from attacks.objective import CrossEntropy, Model
from attacks.spec import AttackSpec, Count, Fraction, Kind, Need, Scene


class Basis(StrEnum):
    """Orthogonal directions of which one is tried at a time."""

    PIXEL = "pixel"
    """One channel of one pixel."""
    DCT = "dct"
    """One low frequency of the discrete cosine transform in one channel."""


STEP = {Basis.PIXEL: 51.0, Basis.DCT: 1.0}
"""Grey levels, at the direction's largest pixel. The paper's 0.2 of the grey range is 51 on one
pixel; spread over a cosine of 224 x 224 pixels it peaks at 0.46, which no file can show."""


def simba(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    queries: int,
    seeds: Sequence[int],
    basis: Basis = Basis.PIXEL,
    step: float | None = None,
    frequencies: float = 1 / 8,
    epsilon: float | None = None,
    targeted: bool = False,
) -> Tensor:
    """Algorithm 1 of the paper: for directions q in random order ask about ``x + α q`` and, unless
    ``p(y | x)`` fell, about ``x - α q``; move where it fell; stop once the model is fooled. After
    the last direction the first is tried again.

    A direction that would change nothing (a white pixel made whiter) or that would leave the ball
    is not asked about. Steps below a grey level are invisible to a model that is sent files: keep α
    at one or more.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        queries: budget of each image; never exceeded.
        seeds: one non-negative integer an image; fixes the order.
        step: α in grey levels at the direction's largest pixel; ``STEP`` of the basis if None.
        frequencies: share of the frequencies, in each axis, that the cosine basis keeps.
        epsilon: L2 radius in grey levels that the walk must not leave; None for no limit.

    Returns ``float32[N, H, W, C]``: winners, or the source where there is none.
    """
    alpha = STEP[basis] if step is None else step
    objective = CrossEntropy(targeted)
    x = pixels.clone()
    with torch.no_grad():
        logits, won = scored(model, x, labels, targeted=targeted)
        value = objective(logits.double(), labels)
    left = torch.full_like(won, queries - 1, dtype=torch.int64)
    idle = torch.zeros_like(left)

    def move(candidates: Tensor, rows: Tensor) -> Tensor:
        """Ask about one candidate an image, go where it is better; ``bool[M]``: moved there."""
        better = torch.zeros_like(rows, dtype=torch.bool)
        able = (left[rows] > 0) & _worth_asking(candidates, x[rows], pixels[rows], epsilon)
        index = able.nonzero()[:, 0]
        if len(index) == 0:
            return better
        asked = rows[index]
        with torch.no_grad():
            logits, fooled = scored(
                at(model, asked), candidates[index], labels[asked], targeted=targeted
            )
            new = objective(logits.double(), labels[asked])
        left[asked] -= 1
        better[index] = fooled | (new > value[asked])
        x[rows[better]] = candidates[better]
        value[rows[better]] = new[better[index]]
        won[asked] = fooled
        return better

    directions = _directions(x.shape[1:], basis, frequencies)
    orders = [np.random.default_rng(seed).permutation(directions) for seed in seeds]
    number = 0
    # a model answers alike when asked again: one idle round of all directions ends the walk
    while len(rows := (~won & (left > 0) & (idle < len(directions))).nonzero()[:, 0]):
        q = [orders[row][number % len(directions)] for row in rows.tolist()]
        change = alpha * _vectors(np.stack(q), x.shape[1:], basis).to(x)
        better = move((x[rows] + change).clamp(0, WHITE), rows)
        back = (~better).nonzero()[:, 0]
        better[back] = move((x[rows[back]] - change[back]).clamp(0, WHITE), rows[back])
        idle[rows] = torch.where(better, 0, idle[rows] + 1)
        number += 1
    return torch.where(won[:, None, None, None], x, pixels)


def _worth_asking(candidates: Tensor, x: Tensor, source: Tensor, epsilon: float | None) -> Tensor:
    """``bool[M]``: another image than ``x``, and within ε of the source."""
    new = (candidates != x).flatten(1).any(dim=1)
    if epsilon is None:
        return new
    return new & (size(candidates - source, Norm.L2) <= epsilon)


def _directions(shape: Sequence[int], basis: Basis, frequencies: float) -> npt.NDArray[np.int64]:
    """``int64[D, 3]``: every direction as row, column and channel, of a pixel or a frequency."""
    share = frequencies if basis is Basis.DCT else 1.0
    kept = (ceil(share * shape[0]), ceil(share * shape[1]), shape[2])
    return np.stack(np.unravel_index(np.arange(np.prod(kept)), kept), axis=1)


def _vectors(directions: npt.NDArray[np.int64], shape: Sequence[int], basis: Basis) -> Tensor:
    """``float32[M, H, W, C]``: the directions ``int64[M, 3]``, 1 at their largest pixel."""
    vectors = np.zeros((len(directions), *shape), np.float32)
    for vector, (row, column, channel) in zip(vectors, directions, strict=True):
        if basis is Basis.PIXEL:
            vector[row, column, channel] = 1
        else:
            vector[:, :, channel] = np.outer(_wave(row, shape[0]), _wave(column, shape[1]))
    return torch.from_numpy(vectors)


def _wave(frequency: int, side: int) -> npt.NDArray[np.float64]:
    """``float64[side]``: a cosine of the DCT-II, 1 at its largest."""
    wave: npt.NDArray[np.float64] = np.cos(
        np.pi * (2 * np.arange(side) + 1) * frequency / (2 * side)
    )
    wave /= np.abs(wave).max()
    return wave


Step = Annotated[float, Field(gt=0, le=255, json_schema_extra={"unit": "grey levels"})]


class SimBA(AttackSpec):
    """Spec of ``simba``.

    ``Kind.MINIMUM``: the paper sets no radius. It takes small orthogonal steps, stops at the first
    image that fools the model and reports that image's norm; one that never does is worth nothing
    to an attacker, who sees the scores.
    """

    citation: ClassVar = "Guo et al. 2019, arXiv 1905.07121, algorithm 1"
    kind: ClassVar = Kind.MINIMUM
    needs: ClassVar = frozenset({Need.LOGITS})
    smoke: ClassVar = {"queries": 100}

    method: Literal["simba"] = "simba"
    norm: Literal[Norm.L2] = Norm.L2
    queries: Count = 5000
    basis: Basis = Basis.PIXEL
    step: (
        Annotated[float, Field(gt=0, le=255, json_schema_extra={"unit": "grey levels"})] | None
    ) = None
    """α at the direction's largest pixel; None: 51 in the pixel basis, 1 in the cosine basis."""
    frequencies: Fraction = 1 / 8
    """Share of the frequencies, in each axis, that the cosine basis keeps."""

    def attack(self, scene: Scene) -> Tensor:
        return simba(
            scene.model,
            scene.pixels,
            scene.labels,
            queries=self.queries,
            seeds=scene.seeds,
            basis=self.basis,
            step=self.step,
            frequencies=self.frequencies,
            epsilon=self.epsilon,
            targeted=self.targeted,
        )
