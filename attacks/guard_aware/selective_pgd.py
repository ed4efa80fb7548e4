"""Selective projected gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from attacks.ball import Norm
from attacks.gradient import OnFinding, refuse
from attacks.guard_aware.orthogonal_pgd import MARGIN, orthogonal_pgd
from attacks.guard_aware.search import guard_of
from attacks.guarded import FUSED, GuardedModel
from attacks.objective import Model
from attacks.spec import AttackSpec, Count, Fraction, GreyLevels, Need, Scene, Steps


def selective_pgd(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    guard: GuardedModel,
    epsilon: float,
    step: float,
    steps: int,
    seeds: Sequence[int],
    margin: float = MARGIN,
    detector: str = FUSED,
    restarts: int = 1,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """Signed steps along the classifier's gradient while the image is not misdiagnosed by
    ``margin``, along the detector's while it is: no weight has to balance the two losses.

    Arguments and result are those of ``orthogonal_pgd``, which this is without the projections.
    """
    return orthogonal_pgd(
        model,
        pixels,
        labels,
        guard=guard,
        epsilon=epsilon,
        step=step,
        steps=steps,
        seeds=seeds,
        orthogonal=False,
        margin=margin,
        detector=detector,
        restarts=restarts,
        targeted=targeted,
        on_finding=on_finding,
    )


class SelectivePGD(AttackSpec):
    """Spec of ``selective_pgd``."""

    citation: ClassVar = "Bryniarski et al. 2021, arXiv 2106.15023, section 4.1"
    needs: ClassVar = frozenset({Need.GRADIENTS, Need.GUARD})
    smoke: ClassVar = {"steps": 5, "step_fraction": 0.25}

    method: Literal["selective_pgd"] = "selective_pgd"
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
        return selective_pgd(
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
