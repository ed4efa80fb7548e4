"""NES: projected gradient descent whose gradient is estimated from scores alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacks.access import at, scored
from attacks.ball import WHITE, Ball, Norm
from attacks.black_box.noise import Noise
from attacks.objective import CrossEntropy, Model
from attacks.spec import AttackSpec, Count, Fraction, GreyLevels, Need, Scene


def nes(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step: float,
    queries: int,
    seeds: Sequence[int],
    samples: int = 50,
    sigma: float = 1.0,
    targeted: bool = False,
) -> Tensor:
    """Section 2.1 and algorithm 1 of the paper, on the cross-entropy L:

    ``x <- Π(x + η sign(Σ_i u_i (L(x + σ u_i) - L(x - σ u_i))))``, u standard normal, n/2 antithetic
    pairs a step. An image stops once it fools the model; one that never does keeps its iterate of
    the highest loss.

    The paper's σ of 0.001 is a quarter of a grey level, of which a file shows little: most pixels
    of ``x + σ u`` round to those of x. The default is one grey level. Steps η below one accumulate
    in float until they round to the next.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        epsilon: L-inf budget in grey levels.
        step: η in grey levels.
        queries: budget of each image; never exceeded.
        seeds: one non-negative integer an image.
        samples: n, even.
        sigma: σ in grey levels.

    Returns ``float32[N, H, W, C]`` within ε of ``pixels`` and in ``[0, 255]``.
    """
    loss = CrossEntropy(targeted)
    ball = Ball.around(pixels, epsilon)
    noise = Noise(seeds, 0)
    x, best = pixels.clone(), pixels.clone()
    with torch.no_grad():
        logits, done = scored(model, x, labels, targeted=targeted)
        highest = loss(logits, labels)
        for _ in range((queries - 1) // (samples + 1)):
            rows = (~done).nonzero()[:, 0]
            if len(rows) == 0:
                break
            access, y = at(model, rows), labels[rows]
            gradient = torch.zeros_like(x[rows])
            for _ in range(samples // 2):
                u = noise.normal(rows, x)
                ahead = loss(access((x[rows] + sigma * u).clamp(0, WHITE)), y)
                behind = loss(access((x[rows] - sigma * u).clamp(0, WHITE)), y)
                rise = (ahead - behind).nan_to_num(0, 0, 0).to(x.dtype)
                gradient += rise[:, None, None, None] * u
            moved = (x[rows] + step * gradient.sign()).clamp(ball.lower[rows], ball.upper[rows])
            x[rows] = moved
            logits, done[rows] = scored(access, moved, y, targeted=targeted)
            value = loss(logits, y)
            better = done[rows] | (value > highest[rows])
            best[rows[better]] = moved[better]
            highest[rows[better]] = value[better]
    return best


class NES(AttackSpec):
    """Spec of ``nes``."""

    citation: ClassVar = "Ilyas et al. 2018, arXiv 1804.08598, section 2 and algorithm 1"
    needs: ClassVar = frozenset({Need.LOGITS})
    smoke: ClassVar = {"queries": 100, "samples": 10}

    method: Literal["nes"] = "nes"
    norm: Literal[Norm.LINF] = Norm.LINF
    epsilon: GreyLevels
    step_fraction: Fraction = 1 / 5
    """η / ε."""
    queries: Count = 5000
    samples: Annotated[int, Field(ge=2, le=100_000, multiple_of=2)] = 50
    """Queries for each estimate: antithetic pairs, so an even number."""
    sigma: Annotated[float, Field(gt=0, le=255, json_schema_extra={"unit": "grey levels"})] = 1.0
    """σ, the search distribution's standard deviation."""

    def attack(self, scene: Scene) -> Tensor:
        return nes(
            scene.model,
            scene.pixels,
            scene.labels,
            epsilon=self.budget,
            step=self.budget * self.step_fraction,
            queries=self.queries,
            seeds=scene.seeds,
            samples=self.samples,
            sigma=self.sigma,
            targeted=self.targeted,
        )
