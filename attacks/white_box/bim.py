"""Basic iterative method."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from attacks.ball import Ball, Norm
from attacks.gradient import OnFinding, ascend, refuse
from attacks.objective import CrossEntropy, Model
from attacks.spec import AttackSpec, Fraction, GreyLevels, Scene, Steps


def bim(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """``x_{k+1} = clip_{x,ε}(x_k + α sign(∇_x J(x_k, y)))`` from ``x_0 = x``; the last iterate.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        epsilon: L-inf budget in grey levels.
        step: α in grey levels.
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]`` in ``[x - ε, x + ε] ∩ [0, 255]``.
    """
    return ascend(
        model,
        pixels,
        labels,
        Ball.around(pixels, epsilon),
        objective=CrossEntropy(targeted),
        step=step,
        steps=steps,
        on_finding=on_finding,
    )


class BIM(AttackSpec):
    """Spec of ``bim``."""

    citation: ClassVar = "Kurakin, Goodfellow and Bengio 2017, arXiv 1607.02533, section 2.2"
    smoke: ClassVar = {"steps": 5, "step_fraction": 0.25}

    method: Literal["bim"] = "bim"
    norm: Literal[Norm.LINF] = Norm.LINF
    epsilon: GreyLevels
    step_fraction: Fraction = 1 / 20
    """α / ε."""
    steps: Steps = 20

    def attack(self, scene: Scene) -> Tensor:
        return bim(
            scene.model,
            scene.pixels,
            scene.labels,
            epsilon=self.budget,
            step=self.budget * self.step_fraction,
            steps=self.steps,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
