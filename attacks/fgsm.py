"""Fast gradient sign method: Goodfellow, Shlens and Szegedy (2015), arXiv 1412.6572, section 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from attacks.gradient import Box, OnFinding, ascend, refuse
from attacks.objective import CrossEntropy, Model
from attacks.spec import AttackSpec


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
        labels: ``int64[N]``, classes to leave, or to reach if ``targeted``.
        epsilon: L-inf budget in grey levels.
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]`` in ``[x - ε, x + ε] ∩ [0, 255]``.
    """
    return ascend(
        model,
        pixels,
        labels,
        Box.around(pixels, epsilon),
        objective=CrossEntropy(targeted),
        step=epsilon,
        steps=1,
        on_finding=on_finding,
    )


class FGSM(AttackSpec):
    """Spec of ``fgsm``."""

    method: Literal["fgsm"] = "fgsm"

    def attack(
        self,
        model: Model,
        pixels: Tensor,
        labels: Tensor,
        seeds: Sequence[int],
        on_finding: OnFinding = refuse,
    ) -> Tensor:
        del seeds  # nothing random here
        return fgsm(
            model,
            pixels,
            labels,
            epsilon=self.epsilon,
            targeted=self.targeted,
            on_finding=on_finding,
        )
