"""Few pixels, any grey: projected gradient descent in the L0 ball (PGD_0)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacks.ball import Ball, Norm
from attacks.gradient import Ailment, GradientFinding, Guidance, OnFinding, refuse
from attacks.objective import Model, Objective, gaps, reached
from attacks.spec import AttackSpec, Count, Scene, Steps
from attacks.white_box.pgd import best_of_restarts


class Gap:
    """``-min_j gap_j``: the margin without a confidence at which it would rest."""

    def __init__(self, targeted: bool = False) -> None:
        self.targeted = targeted

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return -gaps(logits, labels, targeted=self.targeted).amin(dim=1)


def sparse(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    steps: int,
    seeds: Sequence[int],
    first_step: float = 10_000.0,
    last_step: float = 50.0,
    restarts: int = 1,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """``x_{k+1} = P(x_k + α_k ∇ / ||∇||_∞)``, with P the Euclidean projection onto the images in
    which at most ε pixels differ; the iterate with the largest margin.

    The published attack follows the cross-entropy with a constant step. Here the margin is
    followed, which does not saturate, and the step falls geometrically: while it is far longer than
    the grey range, P picks the ε pixels with the most to gain (on a linear model, the optimum);
    later ones only tune what was picked. ``steps + 1`` forward and ``steps`` backward passes.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        epsilon: how many pixels may change, each in all its channels.
        seeds: one non-negative integer an image.
        first_step: α_0, the move of the component with the steepest slope, in grey levels.
        last_step: α of the last step.
        restarts: starting points to try: the image itself, then random greys on random pixels. An
            image that withstands them all keeps the one with the largest margin.
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]`` in ``[0, 255]``.
    """
    objective = Gap(targeted)
    scene = Scene(model, pixels, labels, seeds, on_finding)

    def climb(rows: Tensor, restart: int) -> Tensor:
        part = scene.rows(rows)
        ball = Ball.around(part.pixels, epsilon, Norm.L0)
        start = ball.random(part.seeds, restart) if restart else part.pixels
        return _climb(part, start, ball, objective, steps, first_step, last_step)

    return best_of_restarts(model, climb, labels, objective, restarts, pixels)


def _climb(
    scene: Scene,
    start: Tensor,
    ball: Ball,
    objective: Objective,
    steps: int,
    first_step: float,
    last_step: float,
) -> Tensor:
    guidance = Guidance(start)
    x = best = start.detach()
    best_value = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
    for number in range(steps):
        x = x.detach().requires_grad_()
        logits = scene.model(x)
        value = objective(logits, scene.labels)
        if not value.requires_grad:
            scene.on_finding(GradientFinding(Ailment.NONE, tuple(range(len(x)))))
            return start.detach()
        (gradient,) = torch.autograd.grad(value.sum(), x)
        x = x.detach()
        best, best_value = _better(x, value.detach(), best, best_value)
        arrived = reached(logits.detach(), scene.labels, targeted=objective.targeted)
        finite = guidance.note(gradient, arrived)
        gradient = gradient.masked_fill(~finite.view(-1, 1, 1, 1), 0)
        steepest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
        step = first_step * (last_step / first_step) ** (number / max(steps - 1, 1))
        x = ball.project(x + step * gradient / steepest)
    with torch.no_grad():
        value = objective(scene.model(x), scene.labels)
    best, _ = _better(x, value, best, best_value)
    guidance.report(scene.on_finding)
    return best


def _better(x: Tensor, value: Tensor, best: Tensor, best_value: Tensor) -> tuple[Tensor, Tensor]:
    """The larger in ``value`` (``[N]``) of two images each. NaN is never better."""
    larger = value > best_value
    return (
        torch.where(larger.view(-1, 1, 1, 1), x, best),
        torch.where(larger, value.double(), best_value),
    )


class Sparse(AttackSpec):
    """Spec of ``sparse``."""

    citation: ClassVar = "Croce and Hein 2019, arXiv 1909.05040, section 4 (PGD_0)"
    smoke: ClassVar = {"steps": 5}

    method: Literal["sparse"] = "sparse"
    norm: Literal[Norm.L0] = Norm.L0
    epsilon: Annotated[float, Field(ge=0, json_schema_extra={"unit": "pixels"})]
    steps: Steps = 50
    first_step: Annotated[float, Field(gt=0, json_schema_extra={"unit": "grey levels"})] = 10_000.0
    """The first step of the steepest component."""
    last_step: Annotated[float, Field(gt=0, json_schema_extra={"unit": "grey levels"})] = 50.0
    restarts: Count = 1

    def attack(self, scene: Scene) -> Tensor:
        return sparse(
            scene.model,
            scene.pixels,
            scene.labels,
            epsilon=self.budget,
            steps=self.steps,
            seeds=scene.seeds,
            first_step=self.first_step,
            last_step=self.last_step,
            restarts=self.restarts,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
