"""DeepFool: step onto the nearest linearised boundary until across."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacks.access import at
from attacks.ball import WHITE, Norm, size
from attacks.gradient import OnFinding, refuse
from attacks.minimum import (
    DUAL,
    Closest,
    GradientHealth,
    each,
    movable,
    nearest_boundary,
)
from attacks.objective import Model, reached
from attacks.spec import AttackSpec, Count, Kind, Scene, Steps

_NUDGE = 1e-4
"""Grey levels added to every step's length, as in the authors' code: leaves a boundary on which
the image lies exactly."""


def deepfool(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    norm: Norm = Norm.L2,
    steps: int = 50,
    candidates: int = 10,
    overshoot: float = 0.02,
    epsilon: float | None = None,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """``r <- r + (distance / ||∇||) ∇*``, ``x = clip(source + (1 + η) r)``, until x is across, with
    ∇* the steepest direction in ``norm`` towards the nearest boundary.

    Unlike the paper's, a step knows the grey range: pixels that it holds at black or white do not
    count into the distance, so that an image with a black background needs no extra steps.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        norm: L2 or L-inf.
        candidates: how many of the smallest gaps have their distance computed in each step.
        overshoot: η.
        epsilon: farthest distance in ``norm``, in grey levels, that counts as success.
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]``: the source where no image was found.
    """
    closest, health = Closest.to(pixels), GradientHealth(pixels)
    rows = torch.arange(len(pixels), device=pixels.device)
    x, total = pixels.clone(), torch.zeros_like(pixels)

    def offer(turned: Tensor) -> None:
        closest.offer(rows, x, turned, size(x - pixels[rows], norm))

    for _ in range(steps):
        boundary = nearest_boundary(
            at(model, rows),
            x,
            labels[rows],
            rows,
            health,
            norm=norm,
            candidates=candidates,
            targeted=targeted,
        )
        if boundary is None:
            break
        offer(boundary.turned)
        # an image that nothing guides stays where it is for ever
        kept = ~boundary.turned & boundary.normal.flatten(1).any(dim=1)
        gap, normal, rows, x, total = (
            part[kept] for part in (boundary.gap, boundary.normal, rows, x, total)
        )
        if len(rows) == 0:
            break
        towards = movable(x, -normal * each(gap.sign()))
        length = size(towards, DUAL[norm]).clamp(min=1e-30)
        direction = towards.sign() if norm is Norm.LINF else towards / each(length)
        total = total + direction * each(gap.abs() / length + _NUDGE)
        x = (pixels[rows] + (1 + overshoot) * total).clamp_(0, WHITE)
    if len(rows):
        with torch.no_grad():
            offer(reached(at(model, rows)(x), labels[rows], targeted=targeted))
    health.report(on_finding)
    return closest.within(epsilon, norm)


class DeepFool(AttackSpec):
    """Spec of ``deepfool``."""

    citation: ClassVar = "Moosavi-Dezfooli et al. 2016, arXiv 1511.04599, algorithm 2"
    kind: ClassVar = Kind.MINIMUM
    smoke: ClassVar = {"steps": 10}

    method: Literal["deepfool"] = "deepfool"
    norm: Literal[Norm.L2, Norm.LINF] = Norm.L2
    steps: Steps = 50
    candidates: Count = 10
    """How many of the nearest classes or findings are considered in a step, a backward pass
    each."""
    overshoot: Annotated[float, Field(ge=0, le=1)] = 0.02

    def attack(self, scene: Scene) -> Tensor:
        return deepfool(
            scene.model,
            scene.pixels,
            scene.labels,
            norm=self.norm,
            steps=self.steps,
            candidates=self.candidates,
            overshoot=self.overshoot,
            epsilon=self.epsilon,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
