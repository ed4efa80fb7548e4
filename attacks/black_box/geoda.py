"""GeoDA: the boundary's normal at one point, and out along it from the source."""

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
"""Of the probes' noise; the starting points have the streams from 0."""
RETURN = 20
"""Queries kept for the way out and the search that follow an estimate."""
OUTWARD = 1.25
"""Factor between the radii that are tried along the normal."""
TRIES = 8


def geoda(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    queries: int,
    seeds: Sequence[int],
    norm: Norm = Norm.L2,
    samples: int = 60,
    growth: float = 1.4,
    probe: float = 1.0,
    frequencies: float = 1 / 3,
    starts: int = 50,
    gallery: Gallery | None = None,
    epsilon: float | None = None,
    targeted: bool = False,
) -> Tensor:
    """Algorithms 1 and 2 of the paper, with the model's decisions alone.

    The boundary near a point x_B on it is taken for a hyperplane whose normal is
    ``w ∝ Σ ρ_i η_i``, with η normal in a subspace of low frequencies and decisions ρ of ±1 at
    ``x_B + η`` (equation 4). The nearest point of a hyperplane lies out along w from the source:
    ``x + r w`` (along ``sign(w)`` for L-inf, equation 18), and a bisection of r gives the next
    x_B. Each iteration asks ``growth`` times as much as the last, which is the paper's best split
    of a budget for an error that shrinks with each (theorem 3: λ^(-2/3)).

    The paper probes at a ten-thousandth of the grey range, which no file can show; ``probe`` is
    the r.m.s. change of a pixel instead.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        queries: budget of each image; never exceeded.
        seeds: one non-negative integer an image.
        norm: L2 or L-inf.
        samples: decisions in the first estimate.
        growth: factor from one estimate to the next.
        probe: r.m.s. change of a pixel in a probe, in grey levels.
        frequencies: share of the cosine transform's frequencies, in each axis, that is probed.
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
    count = float(samples)
    while True:
        rows = questions.open
        rows = rows[questions.left[rows] > RETURN]
        if len(rows) == 0:
            return questions.closest(epsilon)
        normal = _normal(questions, noise, x[rows], rows, probe, round(count), frequencies)
        direction = normal.sign() if norm is Norm.LINF else normal
        reached, far = _outward(questions, x[rows], direction, rows)
        index = rows[reached]
        x[index] = questions.approach(far[reached], index)
        count *= growth


def _normal(
    questions: Questions,
    noise: Noise,
    x: Tensor,
    rows: Tensor,
    probe: float,
    samples: int,
    frequencies: float,
) -> Tensor:
    """``[M, H, W, C]``, of unit L2 norm: ``Σ ρ_i η_i`` of equation 4, outwards."""
    radius = probe * x[0].numel() ** 0.5
    total = torch.zeros_like(x)
    for _ in range(samples):
        index = (questions.left[rows] > RETURN).nonzero()[:, 0]
        if len(index) == 0:
            break
        eta = noise.smooth(rows[index], x, frequencies)
        won = questions.ask((x[index] + radius * eta).clamp(0, WHITE), rows[index])
        total[index] += (won.to(x.dtype) * 2 - 1)[:, None, None, None] * eta
    # A winner lies outwards of the source, whatever too few probes say.
    outward = x - questions.source[rows]
    blind = total.flatten(1).norm(dim=1) == 0
    total[blind] = outward[blind]
    return total / size(total, Norm.L2).clamp(min=1e-12)[:, None, None, None]


def _outward(
    questions: Questions, x: Tensor, direction: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """``bool[M]`` and ``[M, H, W, C]``: the first winner out along ``direction`` from the source,
    from the present distance on."""
    source = questions.source[rows]
    unit = direction / size(direction, questions.norm).clamp(min=1e-12)[:, None, None, None]
    radius = size(x - source, questions.norm)
    far = x.clone()
    reached = torch.zeros(len(rows), dtype=torch.bool, device=x.device)
    for _ in range(TRIES):
        index = (~reached & (questions.left[rows] > 0)).nonzero()[:, 0]
        if len(index) == 0:
            break
        there = (source[index] + radius[index, None, None, None] * unit[index]).clamp(0, WHITE)
        won = questions.ask(there, rows[index])
        far[index[won]] = there[won]
        reached[index[won]] = True
        radius = radius * OUTWARD
    return reached, far


class GeoDA(AttackSpec):
    """Spec of ``geoda``."""

    citation: ClassVar = "Rahmati et al. 2020, arXiv 2003.06468, algorithms 1 and 2"
    kind: ClassVar = Kind.MINIMUM
    needs: ClassVar = frozenset({Need.DECISIONS})
    uses: ClassVar = frozenset({Need.IMAGES})
    smoke: ClassVar = {"queries": 100, "samples": 20}

    method: Literal["geoda"] = "geoda"
    norm: Literal[Norm.L2, Norm.LINF] = Norm.L2
    queries: Count = 5000
    samples: Count = 60
    """Decisions in the first estimate of the boundary's normal."""
    growth: Annotated[float, Field(ge=1, le=10)] = 1.4
    """Factor from one estimate to the next: λ^(-2/3) of the paper's λ = 0.6."""
    probe: GreyLevels = 1.0
    """R.m.s. change of a pixel in a probe."""
    frequencies: Fraction = 1 / 3
    """Share of the frequencies, in each axis, that is probed: the paper's 75 of 224."""
    starts: Count = 50
    """Noise images to try before giving up, and images of the attacker's own before those."""

    def prepare(self, attacker: Attacker) -> Gallery:
        """Images to start from."""
        return Gallery.of(attacker)

    def attack(self, scene: Scene) -> Tensor:
        return geoda(
            scene.model,
            scene.pixels,
            scene.labels,
            queries=self.queries,
            seeds=scene.seeds,
            norm=self.norm,
            samples=self.samples,
            growth=self.growth,
            probe=self.probe,
            frequencies=self.frequencies,
            starts=self.starts,
            gallery=scene.prepared,
            epsilon=self.epsilon,
            targeted=self.targeted,
        )
