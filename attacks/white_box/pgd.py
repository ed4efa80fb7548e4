"""Projected gradient descent, in any norm, with restarts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks.access import at
from attacks.ball import Ball, Norm
from attacks.gradient import OnFinding, ascend, refuse
from attacks.objective import CrossEntropy, Model, Objective, reached
from attacks.spec import AttackSpec, Count, Fraction, GreyLevels, Scene, Steps


def pgd(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
    seeds: Sequence[int],
    norm: Norm = Norm.LINF,
    restarts: int = 1,
    targeted: bool = False,
    objective: Objective | None = None,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """Steepest steps on the cross-entropy from a random point of the ball, tried again where they
    failed.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        epsilon: budget in grey levels, in ``norm``.
        step: α in grey levels, in ``norm``.
        seeds: one non-negative integer an image.
        restarts: starting points to try. Later ones run only on images that no earlier one has
            fooled; an image that withstands them all keeps the one with the highest loss.
        objective: what to ascend in place of the cross-entropy.
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]`` within ε of ``pixels`` and in ``[0, 255]``.
    """
    loss = CrossEntropy(targeted) if objective is None else objective
    scene = Scene(model, pixels, labels, seeds, on_finding)

    def climb(rows: Tensor, restart: int) -> Tensor:
        part = scene.rows(rows)
        ball = Ball.around(part.pixels, epsilon, norm)
        return ascend(
            part.model,
            ball.random(part.seeds, restart),
            part.labels,
            ball,
            objective=loss,
            step=step,
            steps=steps,
            on_finding=part.on_finding,
        )

    return best_of_restarts(model, climb, labels, loss, restarts, pixels)


def best_of_restarts(
    model: Model,
    climb: Callable[[Tensor, int], Tensor],
    labels: Tensor,
    objective: Objective,
    restarts: int,
    pixels: Tensor,
) -> Tensor:
    """``climb(rows, restart)`` for restart 0, 1, ... on the rows that no earlier one has fooled; an
    image that withstands them all keeps the one with the highest loss. One restart is not judged.
    """

    def judge(candidates: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            logits = at(model, rows)(candidates)
            return (
                objective(logits, labels[rows]),
                reached(logits, labels[rows], targeted=objective.targeted),
            )

    rows = torch.arange(len(pixels), device=pixels.device)
    best = climb(rows, 0)
    if restarts > 1:
        value, done = judge(best, rows)
        for restart in range(1, restarts):
            rows = (~done).nonzero()[:, 0]
            if len(rows) == 0:
                break
            candidates = climb(rows, restart)
            new_value, new_done = judge(candidates, rows)
            better = new_done | (new_value > value[rows])
            best[rows[better]] = candidates[better]
            value[rows[better]] = new_value[better]
            done[rows] |= new_done
    return best


class PGD(AttackSpec):
    """Spec of ``pgd``."""

    citation: ClassVar = "Madry et al. 2018, arXiv 1706.06083, section 2.1"
    smoke: ClassVar = {"steps": 5, "step_fraction": 0.25}

    method: Literal["pgd"] = "pgd"
    norm: Literal[Norm.LINF, Norm.L2, Norm.L1] = Norm.LINF
    epsilon: GreyLevels
    step_fraction: Fraction = 1 / 10
    """α / ε."""
    steps: Steps = 20
    restarts: Count = 1

    def attack(self, scene: Scene) -> Tensor:
        return pgd(
            scene.model,
            scene.pixels,
            scene.labels,
            epsilon=self.budget,
            step=self.budget * self.step_fraction,
            steps=self.steps,
            seeds=scene.seeds,
            norm=self.norm,
            restarts=self.restarts,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
