"""The boundary attack: a random walk along the boundary that drifts towards the source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacks.ball import WHITE, Norm, size
from attacks.black_box.gallery import Gallery
from attacks.black_box.noise import Noise
from attacks.black_box.questions import Questions
from attacks.objective import Model
from attacks.spec import Attacker, AttackSpec, Count, Fraction, GreyLevels, Kind, Need, Scene

STREAM = 1_000_000
"""Of the walk's noise; the starting points have the streams from 0."""
SPHERICAL_RATE, SOURCE_RATE = 0.5, 0.25
"""Shares of steps that should win: half of those along the sphere, as the paper has it for a
boundary that looks flat, and of those towards the source a quarter, as its code has it."""
CONVERGED = 1e-7
"""Step towards the source, as a share of the distance, below which the walk has arrived."""


def boundary(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    queries: int,
    seeds: Sequence[int],
    spherical_step: float = 0.3,
    source_step: float = 0.1,
    visible_step: float = 0.1,
    adaptation: float = 1.5,
    check_every: int = 10,
    starts: int = 50,
    gallery: Gallery | None = None,
    epsilon: float | None = None,
    targeted: bool = False,
) -> Tensor:
    """Algorithm 1 of the paper, with the model's decisions alone.

    From the closest winner x at distance d from the source: a random step of δ d orthogonal to the
    line between them, back onto the sphere of radius d, then ε d towards the source; kept if it
    wins. Both step sizes are the image's own. Each answer multiplies them by
    ``adaptation ** (won - wanted rate)``, which rests at the wanted rate as the paper's windowed
    counts do, without waiting for a window to fill.

    A step that changes pixels by far less than a grey level is invisible to a model that is sent
    files: the answer would be the last one's, a win, and teach nothing. ``visible_step`` is
    therefore a floor of δ. What is returned is a point that was asked about, and it rounds to the
    file that the model answered for.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        queries: budget of each image; never exceeded.
        seeds: one non-negative integer an image.
        spherical_step: first δ, as a share of the distance.
        source_step: first ε, as a share of the distance.
        visible_step: floor of ``δ d / √pixels``, the r.m.s. change of a pixel by a step along the
            sphere, in grey levels; 0 is the paper.
        check_every: ask also about the step along the sphere alone in every so many steps; δ is
            adapted by these.
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
    delta = torch.full_like(questions.distance, spherical_step)
    inward = torch.full_like(questions.distance, source_step)
    number = 0
    while True:
        rows = questions.open
        rows = rows[inward[rows] > CONVERGED]
        if len(rows) == 0:
            return questions.closest(epsilon)
        source, x = questions.source[rows], questions.best[rows]
        distance = size(x - source, Norm.L2)
        visible = visible_step * x[0].numel() ** 0.5 / distance
        delta[rows] = torch.maximum(delta[rows], visible).clamp(max=1)
        around = _along_sphere(x, source, delta[rows], noise.normal(rows, x))
        if number % check_every == 0:
            won = questions.ask(around, rows)
            delta[rows] *= adaptation ** (won.to(delta.dtype) - SPHERICAL_RATE)
        closer = ((1 - inward[rows]) * distance / size(around - source, Norm.L2)).clamp(max=1)
        won = questions.ask(source + closer[:, None, None, None] * (around - source), rows)
        inward[rows] *= adaptation ** (won.to(inward.dtype) - SOURCE_RATE)
        inward.clamp_(max=0.5)
        number += 1


def _along_sphere(x: Tensor, source: Tensor, delta: Tensor, eta: Tensor) -> Tensor:
    """``[M, H, W, C]``: ``x`` after a step of δ times its distance in the part of ``eta`` that is
    orthogonal to the line to the source, back on the sphere and clipped to the grey range."""
    change = x - source
    distance = size(change, Norm.L2)[:, None, None, None]
    outward = change / distance
    eta = eta - (eta * outward).sum(dim=(1, 2, 3), keepdim=True) * outward
    eta = eta / size(eta, Norm.L2).clamp(min=1e-12)[:, None, None, None]
    share = delta[:, None, None, None]
    direction = (outward + share * eta) / (1 + share.square()).sqrt()
    return (source + distance * direction).clamp(0, WHITE)


class Boundary(AttackSpec):
    """Spec of ``boundary``."""

    citation: ClassVar = "Brendel, Rauber and Bethge 2018, arXiv 1712.04248, algorithm 1"
    kind: ClassVar = Kind.MINIMUM
    needs: ClassVar = frozenset({Need.DECISIONS})
    uses: ClassVar = frozenset({Need.IMAGES})
    smoke: ClassVar = {"queries": 100}

    method: Literal["boundary"] = "boundary"
    norm: Literal[Norm.L2] = Norm.L2
    queries: Count = 5000
    spherical_step: Fraction = 0.3
    """First step along the sphere, as a share of the distance."""
    source_step: Fraction = 0.1
    """First step towards the source, as a share of the distance."""
    visible_step: GreyLevels = 0.1
    """Least r.m.s. change of a pixel by a step along the sphere; 0 is the paper."""
    adaptation: Annotated[float, Field(gt=1, le=10)] = 1.5
    """Factor between a step size after a win and after a loss."""
    check_every: Count = 10
    """Every so many steps the step along the sphere is asked about alone."""
    starts: Count = 50
    """Noise images to try before giving up, and images of the attacker's own before those."""

    def prepare(self, attacker: Attacker) -> Gallery:
        """Images to start from."""
        return Gallery.of(attacker)

    def attack(self, scene: Scene) -> Tensor:
        return boundary(
            scene.model,
            scene.pixels,
            scene.labels,
            queries=self.queries,
            seeds=scene.seeds,
            spherical_step=self.spherical_step,
            source_step=self.source_step,
            visible_step=self.visible_step,
            adaptation=self.adaptation,
            check_every=self.check_every,
            starts=self.starts,
            gallery=scene.prepared,
            epsilon=self.epsilon,
            targeted=self.targeted,
        )
