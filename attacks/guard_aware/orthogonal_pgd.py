"""Orthogonal projected gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacks.ball import Norm
from attacks.gradient import OnFinding, refuse
from attacks.guard_aware.search import Direction, follow, guard_of, search
from attacks.guarded import FUSED, GuardedModel, Reading
from attacks.objective import CrossEntropy, Model, gaps
from attacks.spec import AttackSpec, Count, Fraction, GreyLevels, Need, Scene, Steps

MARGIN = 0.05
"""By how much a logit must win before the detector's turn comes: the authors' released code."""


def orthogonal_pgd(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    guard: GuardedModel,
    epsilon: float,
    step: float,
    steps: int,
    seeds: Sequence[int],
    orthogonal: bool = True,
    margin: float = MARGIN,
    detector: str = FUSED,
    restarts: int = 1,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """Signed steps along the classifier's gradient ``∇f`` while the image is not misdiagnosed by
    ``margin``, along the detector's ``-∇g`` while it is; each without its component along the
    other, so that a step for one undoes, to first order, nothing of the other.

    Args:
        model: counts the guard's passes if it is an ``Access``.
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        epsilon: L-inf budget in grey levels.
        step: in grey levels.
        orthogonal: False is the selective variant, which follows the gradients as they are.
        margin: in logits.
        detector: what to evade: ``fused``, the guard's decision, or one detector by name.

    Returns ``float32[N, H, W, C]`` within ε; whole grey levels if ε is at least 1.
    """
    loss = CrossEntropy(targeted)

    def direction(part: Scene, _rows: Tensor) -> Direction:
        def towards(reading: Reading, x: Tensor, _number: int) -> Tensor:
            nearest = gaps(reading.logits, part.labels, targeted=targeted).amin(dim=1)
            won = nearest.detach() < -margin
            wrong, seen = loss(reading.logits, part.labels), guard.excess(reading, detector)
            if not orthogonal:
                return follow(torch.where(won, -seen, wrong), x)
            away, hidden = follow(wrong, x, again=True), follow(-seen, x)
            along = torch.where(won.view(-1, 1, 1, 1), hidden, away)
            return without(along, torch.where(won.view(-1, 1, 1, 1), away, hidden))

        return towards

    return search(
        Scene(model, pixels, labels, seeds, on_finding, guard),
        direction,
        epsilon=epsilon,
        step=step,
        steps=steps,
        targeted=targeted,
        restarts=restarts,
        route=detector,
    )


def without(gradient: Tensor, other: Tensor) -> Tensor:
    """``[N, H, W, C]``: ``gradient`` less its component along ``other``. In double precision: what
    is left of two nearly parallel gradients must not be rounding."""
    a, b = gradient.double(), other.double()
    along = (a * b).sum(dim=(1, 2, 3), keepdim=True)
    length = b.square().sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-300)
    return (a - along / length * b).to(gradient.dtype)


class OrthogonalPGD(AttackSpec):
    """Spec of ``orthogonal_pgd``."""

    citation: ClassVar = "Bryniarski et al. 2021, arXiv 2106.15023, section 4.2"
    needs: ClassVar = frozenset({Need.GRADIENTS, Need.GUARD})
    smoke: ClassVar = {"steps": 5, "step_fraction": 0.25}

    method: Literal["orthogonal_pgd"] = "orthogonal_pgd"
    norm: Literal[Norm.LINF] = Norm.LINF
    epsilon: GreyLevels
    step_fraction: Fraction = 1 / 10
    """Step / ε."""
    steps: Steps = 100
    margin: Annotated[float, Field(ge=0, json_schema_extra={"unit": "logits"})] = MARGIN
    detector: str = FUSED
    """``fused`` is the guard's decision; else one detector's name."""
    restarts: Count = 1

    def attack(self, scene: Scene) -> Tensor:
        return orthogonal_pgd(
            scene.model,
            scene.pixels,
            scene.labels,
            guard=guard_of(scene),
            epsilon=self.budget,
            step=self.budget * self.step_fraction,
            steps=self.steps,
            seeds=scene.seeds,
            margin=self.margin,
            detector=self.detector,
            restarts=self.restarts,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
