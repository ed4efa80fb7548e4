"""HopSkipJump: to the boundary, its normal from probes around it, a jump along it, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks.ball import WHITE, Norm, size
from attacks.black_box.gallery import Gallery
from attacks.black_box.noise import Noise
from attacks.black_box.questions import RESOLUTION, Questions
from attacks.objective import Model
from attacks.spec import Attacker, AttackSpec, Count, GreyLevels, Kind, Need, Scene

STREAM = 1_000_000
"""Of the probes' noise; the starting points have the streams from 0."""
RETURN = 20
"""Queries kept for the jump and the search that follow an estimate: without them it is wasted."""


def hopskipjump(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    queries: int,
    seeds: Sequence[int],
    norm: Norm = Norm.L2,
    samples: int = 100,
    probe: float = 1.0,
    starts: int = 50,
    gallery: Gallery | None = None,
    epsilon: float | None = None,
    targeted: bool = False,
) -> Tensor:
    """Algorithm 2 of the paper, with the model's decisions alone.

    Iteration t estimates the boundary's normal from ``B_0 √t`` decisions around a point on it
    (equations 9 and 16), jumps by ``ξ_t = ||x_t - x*|| / √t``, halved until the model is still
    fooled (equation 15), and bisects back to the boundary. The closest image that was ever
    asked about and fooled the model is kept.

    The paper probes at ``δ_t = ||x_t - x*|| / d``, a thousandth of a grey level a pixel in a
    radiograph. A file cannot show that: every probe would round to one image and all answers
    would agree. ``probe`` is therefore a floor of δ. In the same way steps below a grey level are
    invisible; what is returned is a point that was asked about, and it rounds to the file that
    the model answered for.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        queries: budget of each image; never exceeded.
        seeds: one non-negative integer an image.
        norm: L2 or L-inf.
        samples: B_0.
        probe: floor of ``δ / √d``, the r.m.s. change of a pixel, in grey levels; 0 is the paper.
        starts: noise images to try as a first point.
        gallery: images of the attacker's own, tried before noise: as many.
        epsilon: farther winners count as failures; grey levels in ``norm``.

    Returns ``float32[N, H, W, C]``: winners, or the source where there is none.
    """
    questions = Questions(model, pixels, labels, norm=norm, queries=queries, targeted=targeted)
    questions.begin(seeds, starts, gallery)
    noise = Noise(seeds, STREAM)
    x = questions.best.clone()
    rows = questions.open
    x[rows] = questions.approach(x[rows], rows)
    t = 1
    while True:
        rows = questions.open
        rows = rows[questions.left[rows] > RETURN]
        if len(rows) == 0:
            return questions.closest(epsilon)
        here = x[rows]
        distance = size(here - questions.source[rows], norm)
        dimensions = here[0].numel()
        floor = size(here - questions.source[rows], Norm.L2).clamp(max=probe * dimensions**0.5)
        delta = torch.maximum(distance / dimensions, floor)
        normal = _normal(questions, noise, here, rows, delta, round(samples * t**0.5))
        direction = normal.sign() if norm is Norm.LINF else normal
        landed = _jump(questions, here, direction, distance / t**0.5, rows)
        x[rows] = questions.approach(landed, rows)
        t += 1


def _normal(
    questions: Questions, noise: Noise, x: Tensor, rows: Tensor, delta: Tensor, samples: int
) -> Tensor:
    """``[M, H, W, C]``, of unit L2 norm: ``Σ_b (φ_b - mean φ) u_b`` with decisions φ of ±1 at
    ``x + δ u_b``, equation 16. Summed as the answers come: no probe is kept."""
    radius = delta[:, None, None, None]
    weighted, plain = torch.zeros_like(x), torch.zeros_like(x)
    total, asked = torch.zeros_like(delta), torch.zeros_like(delta)
    for _ in range(samples):
        index = (questions.left[rows] > RETURN).nonzero()[:, 0]
        if len(index) == 0:
            break
        if questions.norm is Norm.LINF:
            u = noise.uniform(rows[index], x) * 2 - 1
        else:
            u = noise.normal(rows[index], x)
        u = u / size(u, Norm.L2)[:, None, None, None]
        shown = (x[index] + radius[index] * u).clamp(0, WHITE)
        # what was clipped was not probed
        u = (shown - x[index]) / radius[index].clamp(min=1e-12)
        decision = questions.ask(shown, rows[index]).to(x.dtype) * 2 - 1
        weighted[index] += decision[:, None, None, None] * u
        plain[index] += u
        total[index] += decision
        asked[index] += 1
    mean = total / asked.clamp(min=1)
    # where all answers agree their mean would cancel them: the paper's code follows them plainly
    baseline = torch.where(mean.abs() == 1, torch.zeros_like(mean), mean)
    normal = weighted - baseline[:, None, None, None] * plain
    return normal / size(normal, Norm.L2).clamp(min=1e-12)[:, None, None, None]


def _jump(questions: Questions, x: Tensor, direction: Tensor, step: Tensor, rows: Tensor) -> Tensor:
    """``x + ξ v`` with the largest of ξ, ξ/2, ξ/4, ... that wins; ``x`` where none does."""
    landed, step = x.clone(), step.clone()
    steepest = direction.abs().amax(dim=(1, 2, 3))
    waiting = torch.ones_like(rows, dtype=torch.bool)
    while True:
        visible = step * steepest > RESOLUTION
        index = (waiting & visible & (questions.left[rows] > 0)).nonzero()[:, 0]
        if len(index) == 0:
            return landed
        there = (x[index] + step[index, None, None, None] * direction[index]).clamp(0, WHITE)
        won = questions.ask(there, rows[index])
        landed[index[won]] = there[won]
        waiting[index[won]] = False
        step[index] /= 2


class HopSkipJump(AttackSpec):
    """Spec of ``hopskipjump``."""

    citation: ClassVar = "Chen, Jordan and Wainwright 2020, arXiv 1904.02144, algorithm 2"
    kind: ClassVar = Kind.MINIMUM
    needs: ClassVar = frozenset({Need.DECISIONS})
    uses: ClassVar = frozenset({Need.IMAGES})
    smoke: ClassVar = {"queries": 100, "samples": 20}

    method: Literal["hopskipjump"] = "hopskipjump"
    norm: Literal[Norm.L2, Norm.LINF] = Norm.L2
    queries: Count = 5000
    samples: Count = 100
    """Decisions in the first estimate of the boundary's normal; the t-th takes √t times more."""
    probe: GreyLevels = 1.0
    """Least r.m.s. change of a pixel in a probe. 0 is the paper, whose probes no file can show."""
    starts: Count = 50
    """Noise images to try before giving up, and images of the attacker's own before those."""

    def prepare(self, attacker: Attacker) -> Gallery:
        """Images to start from."""
        return Gallery.of(attacker)

    def attack(self, scene: Scene) -> Tensor:
        return hopskipjump(
            scene.model,
            scene.pixels,
            scene.labels,
            queries=self.queries,
            seeds=scene.seeds,
            norm=self.norm,
            samples=self.samples,
            probe=self.probe,
            starts=self.starts,
            gallery=scene.prepared,
            epsilon=self.epsilon,
            targeted=self.targeted,
        )
