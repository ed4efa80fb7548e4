"""SurFree: along the boundary on circles, without any estimate of its normal."""

from __future__ import annotations

from collections.abc import Sequence
from math import radians
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacks.ball import Norm, size
from attacks.black_box.gallery import Gallery
from attacks.black_box.noise import Noise
from attacks.black_box.questions import RESOLUTION, Questions
from attacks.objective import Model
from attacks.spec import Attacker, AttackSpec, Count, Fraction, Kind, Need, Scene

STREAM = 1_000_000
"""Of the directions' noise; the starting points have the streams from 0."""
KEPT = 0.98
"""1 - κ: what is left of the largest angle after a direction that gains nothing (section 4.3)."""


def surfree(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    queries: int,
    seeds: Sequence[int],
    angle: float = 30.0,
    tries: int = 3,
    halvings: int = 10,
    frequencies: float = 0.5,
    remembered: int = 100,
    starts: int = 50,
    gallery: Gallery | None = None,
    epsilon: float | None = None,
    targeted: bool = False,
) -> Tensor:
    """Algorithm 1 of the paper, with the model's decisions alone.

    From a winner at distance d in direction u from the source, a direction v orthogonal to u and to
    the last ones gives a half circle through both, on which every point
    ``d cos θ (u cos θ + v sin θ)`` lies closer to the source (section 4.2). Angles from the largest
    to its ``1 / tries``, of both signs in turn, are asked about; the first that wins is widened by
    bisection between it and the next larger. The largest angle grows after a gain and shrinks after
    a loss.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        queries: budget of each image; never exceeded.
        seeds: one non-negative integer an image.
        angle: first largest angle, in degrees.
        tries: T, angles of each sign.
        halvings: most bisections of an angle.
        frequencies: share of the cosine transform's frequencies, in each axis, that directions
            are drawn from.
        remembered: directions that the next is made orthogonal to.
        starts: noise images to try as a first point.
        gallery: images of the attacker's own, tried before noise: as many.
        epsilon: farther winners count as failures; grey levels in L2.

    Returns ``float32[N, H, W, C]``: winners, or the source where there is none.
    """
    questions = Questions(model, pixels, labels, norm=Norm.L2, queries=queries, targeted=targeted)
    questions.begin(seeds, starts, gallery)
    rows = questions.open
    questions.approach(questions.best[rows], rows)
    noise = Noise(seeds, STREAM)
    largest = torch.full_like(questions.distance, radians(angle))
    past: list[list[Tensor]] = [[] for _ in seeds]
    while True:
        rows = questions.open
        if len(rows) == 0:
            return questions.closest(epsilon)
        source = questions.source[rows]
        change = questions.best[rows] - source
        distance = size(change, Norm.L2)
        u = change / distance[:, None, None, None]
        v = noise.smooth(rows, change, frequencies)
        v = _orthogonal(v, u, [past[row] for row in rows.tolist()])
        circle = _Circle(source, distance, u, v)
        found, bound = _first(questions, circle, rows, largest[rows], tries)
        gained = found != 0
        index = gained.nonzero()[:, 0]
        _widen(questions, circle, rows, found, bound, index, halvings)
        largest[rows] = torch.where(gained, largest[rows] / KEPT, largest[rows] * KEPT)
        largest.clamp_(max=radians(90))
        for place, row in enumerate(rows.tolist()):
            past[row] = [*past[row], v[place]][-remembered:]


class _Circle:
    """M half circles through sources and winners."""

    def __init__(self, source: Tensor, distance: Tensor, u: Tensor, v: Tensor) -> None:
        self.source, self.distance, self.u, self.v = source, distance, u, v

    def at(self, theta: Tensor, index: Tensor) -> Tensor:
        """``[K, H, W, C]``: points of the circles at ``index``, ``int64[K]``, at angles ``[K]``."""
        angle = theta[:, None, None, None]
        direction = self.u[index] * angle.cos() + self.v[index] * angle.sin()
        reach = self.distance[index][:, None, None, None] * angle.cos()
        return (self.source[index] + reach * direction).clamp(0, 255)


def _orthogonal(v: Tensor, u: Tensor, past: Sequence[Sequence[Tensor]]) -> Tensor:
    """``v`` of unit length, less its parts along ``u`` and past directions (Gram-Schmidt)."""
    made = []
    for mine, across, others in zip(v, u, past, strict=True):
        for other in (*others, across):
            mine = mine - (mine * other).sum() * other
        made.append(mine / mine.norm().clamp(min=1e-12))
    return torch.stack(made)


def _first(
    questions: Questions, circle: _Circle, rows: Tensor, largest: Tensor, tries: int
) -> tuple[Tensor, Tensor]:
    """``[M]`` each: the first angle that wins, 0 where none does, and the next larger one that was
    asked about before it, or itself."""
    found, bound = torch.zeros_like(largest), torch.zeros_like(largest)
    for step in range(tries, 0, -1):
        for sign in (1.0, -1.0):
            index = (found == 0).nonzero()[:, 0]
            theta = sign * largest[index] * step / tries
            won = questions.ask(circle.at(theta, index), rows[index])
            found[index[won]] = theta[won]
            wider = sign * largest[index] * min(step + 1, tries) / tries
            bound[index[won]] = wider[won]
    return found, bound


def _widen(
    questions: Questions,
    circle: _Circle,
    rows: Tensor,
    found: Tensor,
    bound: Tensor,
    index: Tensor,
    halvings: int,
) -> None:
    """Bisect between a winning angle and a wider one; ``questions`` remembers the closest."""
    low, high = found.clone(), bound.clone()
    for _ in range(halvings):
        visible = (high - low).abs() * circle.distance > RESOLUTION
        able = index[visible[index] & (questions.left[rows[index]] > 0)]
        if len(able) == 0:
            return
        middle = (low[able] + high[able]) / 2
        won = questions.ask(circle.at(middle, able), rows[able])
        low[able] = torch.where(won, middle, low[able])
        high[able] = torch.where(won, high[able], middle)


class SurFree(AttackSpec):
    """Spec of ``surfree``."""

    citation: ClassVar = "Maho, Furon and Le Merrer 2021, arXiv 2011.12807, algorithm 1"
    kind: ClassVar = Kind.MINIMUM
    needs: ClassVar = frozenset({Need.DECISIONS})
    uses: ClassVar = frozenset({Need.IMAGES})
    smoke: ClassVar = {"queries": 100}

    method: Literal["surfree"] = "surfree"
    norm: Literal[Norm.L2] = Norm.L2
    queries: Count = 5000
    angle: Annotated[float, Field(gt=0, le=90, json_schema_extra={"unit": "degrees"})] = 30.0
    """First largest angle."""
    tries: Annotated[int, Field(ge=1, le=100)] = 3
    """T: angles of each sign that are asked about."""
    halvings: Annotated[int, Field(ge=0, le=100)] = 10
    """Most bisections of an angle."""
    frequencies: Fraction = 0.5
    """Share of the frequencies, in each axis, that directions are drawn from."""
    remembered: Annotated[int, Field(ge=0, le=1000)] = 100
    """Directions that the next is made orthogonal to."""
    starts: Count = 50
    """Noise images to try before giving up, and images of the attacker's own before those."""

    def prepare(self, attacker: Attacker) -> Gallery:
        """Images to start from."""
        return Gallery.of(attacker)

    def attack(self, scene: Scene) -> Tensor:
        return surfree(
            scene.model,
            scene.pixels,
            scene.labels,
            queries=self.queries,
            seeds=scene.seeds,
            angle=self.angle,
            tries=self.tries,
            halvings=self.halvings,
            frequencies=self.frequencies,
            remembered=self.remembered,
            starts=self.starts,
            gallery=scene.prepared,
            epsilon=self.epsilon,
            targeted=self.targeted,
        )
