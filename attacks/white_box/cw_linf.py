"""Carlini and Wagner's margin under an L-inf budget, by projected gradient steps.

The loss is f_6 of Carlini and Wagner (2017), arXiv 1608.04644, section V-A; ascending it inside a
fixed ball is "CW" in Madry et al. (2018) and "CW-Linf" in Ma et al. (2021).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from attacks.ball import Ball, Norm
from attacks.gradient import OnFinding, ascend, refuse
from attacks.objective import Margin, Model
from attacks.spec import AttackSpec, Fraction, GreyLevels, Scene, Steps


def cw_linf(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
    kappa: float = 100.0,
    masked: bool = True,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """``x_{k+1} = clip_{x,ε}(x_k + α sign(∇_x -max(z_y - max_{i != y} z_i + κ, 0)))``, ``x_0 = x``.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        epsilon: L-inf budget in grey levels.
        step: α in grey levels.
        kappa: confidence in logits; the attack rests once it wins by this much.
        masked: False reproduces the released code of Ma et al. (``objective.Margin``).
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]`` in ``[x - ε, x + ε] ∩ [0, 255]``.
    """
    return ascend(
        model,
        pixels,
        labels,
        Ball.around(pixels, epsilon),
        objective=Margin(kappa, masked, targeted),
        step=step,
        steps=steps,
        on_finding=on_finding,
    )


class CWLinf(AttackSpec):
    """Spec of ``cw_linf``."""

    citation: ClassVar = "Carlini and Wagner 2017, arXiv 1608.04644; as in Ma et al. 2021"
    smoke: ClassVar = {"steps": 5, "step_fraction": 0.25}

    method: Literal["cw_linf"] = "cw_linf"
    norm: Literal[Norm.LINF] = Norm.LINF
    epsilon: GreyLevels
    step_fraction: Fraction = 1 / 10
    """α / ε."""
    steps: Steps = 20
    kappa: Annotated[float, Field(ge=0, json_schema_extra={"unit": "logits"})] = 100.0
    masked: bool = True

    def attack(self, scene: Scene) -> Tensor:
        return cw_linf(
            scene.model,
            scene.pixels,
            scene.labels,
            epsilon=self.budget,
            step=self.budget * self.step_fraction,
            steps=self.steps,
            kappa=self.kappa,
            masked=self.masked,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
