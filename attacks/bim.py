"""Basic iterative method: Kurakin, Goodfellow and Bengio (2017), arXiv 1607.02533, section 2.2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from attacks.gradient import Box, OnFinding, ascend, refuse
from attacks.objective import CrossEntropy, Model
from attacks.spec import AttackSpec, Fraction, Steps


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
        labels: ``int64[N]``, classes to leave, or to reach if ``targeted``.
        epsilon: L-inf budget in grey levels.
        step: α in grey levels.
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]`` in ``[x - ε, x + ε] ∩ [0, 255]``.
    """
    return ascend(
        model,
        pixels,
        labels,
        Box.around(pixels, epsilon),
        objective=CrossEntropy(targeted),
        step=step,
        steps=steps,
        on_finding=on_finding,
    )


class BIM(AttackSpec):
    """Spec of ``bim``."""

    method: Literal["bim"] = "bim"
    step_fraction: Fraction = 1 / 20
    """α / ε."""
    steps: Steps = 20

    def attack(
        self,
        model: Model,
        pixels: Tensor,
        labels: Tensor,
        seeds: Sequence[int],
        on_finding: OnFinding = refuse,
    ) -> Tensor:
        del seeds  # nothing random here
        return bim(
            model,
            pixels,
            labels,
            epsilon=self.epsilon,
            step=self.epsilon * self.step_fraction,
            steps=self.steps,
            targeted=self.targeted,
            on_finding=on_finding,
        )
