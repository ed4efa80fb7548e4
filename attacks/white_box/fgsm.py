"""Fast gradient sign method."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from attacks.ball import Ball, Norm
from attacks.gradient import OnFinding, ascend, refuse
from attacks.objective import CrossEntropy, Model
from attacks.spec import AttackSpec, GreyLevels, Scene


def fgsm(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """``x + ε sign(∇_x J(x, y))``: one step of the whole budget along the cross-entropy's gradient.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        epsilon: L-inf budget in grey levels.
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]`` in ``[x - ε, x + ε] ∩ [0, 255]``.
    """
    return ascend(
        model,
        pixels,
        labels,
        Ball.around(pixels, epsilon),
        objective=CrossEntropy(targeted),
        step=epsilon,
        steps=1,
        on_finding=on_finding,
    )


class FGSM(AttackSpec):
    """Spec of ``fgsm``."""

    citation: ClassVar = "Goodfellow, Shlens and Szegedy 2015, arXiv 1412.6572, section 4"

    method: Literal["fgsm"] = "fgsm"
    norm: Literal[Norm.LINF] = Norm.LINF
    epsilon: GreyLevels

    def attack(self, scene: Scene) -> Tensor:
        return fgsm(
            scene.model,
            scene.pixels,
            scene.labels,
            epsilon=self.budget,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
