"""Projected gradient descent on the classifier's and the guard's loss together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from attacks.ball import WHITE, Norm
from attacks.gradient import OnFinding, refuse
from attacks.guard_aware.search import Direction, follow, guard_of, search
from attacks.guarded import GuardedModel, Reading
from attacks.objective import CrossEntropy, Model, Objective, reached
from attacks.spec import AttackSpec, Count, Fraction, GreyLevels, Need, Scene, Steps

ADAPTATION = 1.2
"""Factor by which λ changes at a step."""
SHIFT = 2
NOISE = 0.5
"""Of a draw: the largest shift, in pixels along each axis, and the deviation of the Gaussian noise,
in grey levels. Both small against what a randomised second stage may do without losing benign
images."""


def joint_pgd(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    guard: GuardedModel,
    epsilon: float,
    step: float,
    steps: int,
    seeds: Sequence[int],
    weight: float = 1.0,
    caution: float = 0.25,
    draws: int = 1,
    restarts: int = 1,
    targeted: bool = False,
    objective: Objective | None = None,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """Signed steps on ``L(f(x), y) - λ relu(e(x) + c)`` with ``e`` the guard's excess over its
    thresholds (``GuardedModel.excess``): the misdiagnosis pays, being flagged costs. No one λ suits
    every image, so each has its own: it grows by ``ADAPTATION`` at a step that finds the image
    wanted but held, and shrinks by as much at one that finds it not wanted.

    With more than one draw both terms are averaged over the image itself and random neighbours of
    it, slightly shifted and noised (expectation over transformations, Athalye et al. 2018, arXiv
    1707.07397), for guards with random stages. Stages without a gradient have one here
    (``attacks.bpda``).

    Args:
        model: counts the guard's passes if it is an ``Access``.
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        epsilon: L-inf budget in grey levels.
        step: in grey levels.
        weight: λ of the first step.
        caution: c, in standard deviations of benign scores: how far below its thresholds the guard
            should be left.
        objective: L, the cross-entropy by default.

    Returns ``float32[N, H, W, C]`` within ε; whole grey levels if ε is at least 1.
    """
    loss = CrossEntropy(targeted) if objective is None else objective

    def direction(part: Scene, _rows: Tensor) -> Direction:
        lambdas = pixels.new_full((len(part.labels),), weight)

        def value(reading: Reading) -> Tensor:
            repeats = len(reading.fused) // len(part.labels)
            wanted = loss(reading.logits, part.labels.repeat(repeats, *[1] * (labels.ndim - 1)))
            seen = torch.relu(guard.excess(reading) + caution)
            return (wanted - lambdas.repeat(repeats) * seen).view(repeats, -1).sum(dim=0)

        def towards(reading: Reading, x: Tensor, number: int) -> Tensor:
            with torch.no_grad():
                won = reached(reading.logits, part.labels, targeted=targeted)
                held = guard.excess(reading) > -caution
                lambdas.mul_(torch.where(won & held, ADAPTATION, 1.0))
                lambdas.div_(torch.where(won, 1.0, ADAPTATION))
            total = value(reading)
            if draws > 1:
                others = [
                    neighbour(x, part.seeds, number * draws + draw) for draw in range(1, draws)
                ]
                total = total + value(guard.readings(torch.cat(others), part.model))
            return follow(total, x)

        return towards

    return search(
        Scene(model, pixels, labels, seeds, on_finding, guard),
        direction,
        epsilon=epsilon,
        step=step,
        steps=steps,
        targeted=targeted,
        restarts=restarts,
    )


def neighbour(pixels: Tensor, seeds: Sequence[int], stream: int) -> Tensor:
    """``[N, H, W, C]``: each image shifted by up to ``SHIFT`` pixels, its edge repeated, with
    Gaussian noise. An image's draw follows from its seed and the stream alone."""
    shape, images = pixels.shape[1:], []
    padded = torch.nn.functional.pad(
        pixels.permute(0, 3, 1, 2), (SHIFT, SHIFT, SHIFT, SHIFT), mode="replicate"
    ).permute(0, 2, 3, 1)
    for image, seed in zip(padded, seeds, strict=True):
        rng = np.random.default_rng((seed, 1, stream))
        down, right = rng.integers(0, 2 * SHIFT + 1, size=2).tolist()
        noise = torch.from_numpy(rng.normal(scale=NOISE, size=shape).astype(np.float32))
        moved = image[down : down + shape[0], right : right + shape[1]]
        images.append(moved + noise.to(image))
    return torch.stack(images).clamp(0, WHITE)


class JointPGD(AttackSpec):
    """Spec of ``joint_pgd``."""

    citation: ClassVar = (
        "Carlini and Wagner 2017, arXiv 1705.07263, section 3 (attacking with the detector in the "
        "loss); Athalye et al. 2018, arXiv 1802.00420"
    )
    needs: ClassVar = frozenset({Need.GRADIENTS, Need.GUARD})
    smoke: ClassVar = {"steps": 5, "step_fraction": 0.25}

    method: Literal["joint_pgd"] = "joint_pgd"
    norm: Literal[Norm.LINF] = Norm.LINF
    epsilon: GreyLevels
    step_fraction: Fraction = 1 / 10
    """Step / ε."""
    steps: Steps = 100
    weight: Annotated[float, Field(ge=0)] = 1.0
    """λ of the guard's loss, of the first step."""
    caution: Annotated[float, Field(ge=0, json_schema_extra={"unit": "standard deviations"})] = 0.25
    """How far below its thresholds the guard should be left."""
    eot: bool = False
    """Average over random neighbours of the image, for guards with random stages."""
    samples: Count = 8
    """Passes a step with ``eot``, the image itself among them."""
    restarts: Count = 1

    def attack(self, scene: Scene) -> Tensor:
        return joint_pgd(
            scene.model,
            scene.pixels,
            scene.labels,
            guard=guard_of(scene),
            epsilon=self.budget,
            step=self.budget * self.step_fraction,
            steps=self.steps,
            seeds=scene.seeds,
            weight=self.weight,
            caution=self.caution,
            draws=self.samples if self.eot else 1,
            restarts=self.restarts,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
