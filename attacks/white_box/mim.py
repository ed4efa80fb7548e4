"""Momentum iterative method (MI-FGSM)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from attacks.ball import Ball, Norm
from attacks.gradient import OnFinding, ascend, refuse
from attacks.objective import CrossEntropy, Model
from attacks.spec import AttackSpec, Fraction, GreyLevels, Scene, Steps

Decay = Annotated[float, Field(ge=0, le=10)]
"""μ; 0 forgets everything, 1 weighs all steps alike."""


def mim(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
    decay: float = 1.0,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """``g_{k+1} = μ g_k + ∇_x J(x_k, y) / ||∇_x J(x_k, y)||_1`` (equation 6),
    ``x_{k+1} = clip_{x,ε}(x_k + α sign(g_{k+1}))`` from ``x_0 = x``; the last iterate.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        epsilon: L-inf budget in grey levels.
        step: α in grey levels.
        decay: μ.
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
        momentum=decay,
        on_finding=on_finding,
    )


class MIM(AttackSpec):
    """Spec of ``mim``."""

    citation: ClassVar = "Dong et al. 2018, arXiv 1710.06081, algorithm 1"
    smoke: ClassVar = {"steps": 5, "step_fraction": 0.25}

    method: Literal["mim"] = "mim"
    norm: Literal[Norm.LINF] = Norm.LINF
    epsilon: GreyLevels
    step_fraction: Fraction = 1 / 10
    """α / ε; the paper takes ε / steps."""
    steps: Steps = 10
    decay: Decay = 1.0

    def attack(self, scene: Scene) -> Tensor:
        return mim(
            scene.model,
            scene.pixels,
            scene.labels,
            epsilon=self.budget,
            step=self.budget * self.step_fraction,
            steps=self.steps,
            decay=self.decay,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
