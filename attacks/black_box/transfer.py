"""Transfer: the image is made on a model of the attacker's own and sent to the attacked one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacks.access import at, fooled
from attacks.ball import Ball, Norm
from attacks.gradient import ascend
from attacks.objective import CrossEntropy, Model
from attacks.problem import AttackProblem
from attacks.spec import (
    Attacker,
    AttackSpec,
    Count,
    Fraction,
    GreyLevels,
    Need,
    Scene,
    Steps,
)
from attacks.white_box.dim import diversity
from attacks.white_box.mim import Decay


def transfer(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    surrogate: Model,
    epsilon: float,
    step: float,
    steps: int,
    seeds: Sequence[int],
    decay: float = 1.0,
    probability: float = 0.5,
    rate: float = 0.9,
    restarts: int = 1,
    targeted: bool = False,
) -> Tensor:
    """PGD with momentum μ (Dong et al.) and diverse inputs (Xie et al.) on ``surrogate``, whose
    gradients the attacker has; the attacked model is asked one question a restart: is it fooled?

    The first restart begins at the source, later ones at random points of the ball, for the images
    that were refused. What is refused every time comes back as the first restart made it.
    Gradients of the surrogate that are zero say nothing about the attacked model and are not
    reported; such an image stays where it is.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        surrogate: pixels to logits of the same classes.
        epsilon: L-inf budget in grey levels.
        step: α in grey levels.
        seeds: one non-negative integer an image.
        decay: μ; 0 for no momentum.
        probability: how often a step sees the image resized and padded; 0 for never.
        rate: the smallest size then, as a share of the image's side.
        restarts: images to send at most.

    Returns ``float32[N, H, W, C]`` in ``[x - ε, x + ε] ∩ [0, 255]``.
    """
    sent = pixels.clone()
    rows = torch.arange(len(pixels), device=pixels.device)
    for restart in range(restarts):
        if len(rows) == 0:
            break
        own = [seeds[row] for row in rows.tolist()]
        ball = Ball.around(pixels[rows], epsilon)
        made = ascend(
            surrogate,
            ball.random(own, restart) if restart else pixels[rows],
            labels[rows],
            ball,
            objective=CrossEntropy(targeted),
            step=step,
            steps=steps,
            momentum=decay or None,
            transform=diversity(own, probability, rate) if probability else None,
            on_finding=lambda _: None,
        )
        with torch.no_grad():
            won = fooled(at(model, rows), made, labels[rows], targeted=targeted)
        kept = won if restart else torch.ones_like(won)
        sent[rows[kept]] = made[kept]
        rows = rows[~won]
    return sent


class Transfer(AttackSpec):
    """Spec of ``transfer``."""

    citation: ClassVar = (
        "Papernot et al. 2016, arXiv 1605.07277; made by Dong et al. 2018, arXiv 1710.06081, with "
        "the inputs of Xie et al. 2019, arXiv 1803.06978"
    )
    needs: ClassVar = frozenset({Need.SURROGATE})
    smoke: ClassVar = {"steps": 5, "step_fraction": 0.25}

    method: Literal["transfer"] = "transfer"
    norm: Literal[Norm.LINF] = Norm.LINF
    epsilon: GreyLevels
    surrogate: str = ""
    """The attacker's model of the same classes: anything ``--model`` takes. ``lazaret train
    --surrogate`` makes one."""
    step_fraction: Fraction = 1 / 10
    """α / ε."""
    steps: Steps = 20
    decay: Decay = 1.0
    probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How often a step sees the image resized and padded."""
    rate: Fraction = 0.9
    """The smallest size then, as a share of the image's side."""
    restarts: Count = 1
    """Images to send at most; the attacked model answers each."""

    def prepare(self, attacker: Attacker) -> Model:
        """The surrogate. Raises ``AttackProblem`` where none is named or none can be loaded."""
        if not self.surrogate:
            raise AttackProblem(
                f"{self.name} needs a model of the attacker's own: write "
                f"{self.name}:surrogate=FOLDER, which lazaret train --surrogate makes"
            )
        if attacker.load is None:
            raise AttackProblem(f"{self.name}: no surrogate can be loaded here: {self.surrogate}")
        return attacker.load(self.surrogate)

    def attack(self, scene: Scene) -> Tensor:
        if scene.prepared is None:
            raise AttackProblem(f"{self.name} was not prepared: it has no surrogate")
        return transfer(
            scene.model,
            scene.pixels,
            scene.labels,
            surrogate=scene.prepared,
            epsilon=self.budget,
            step=self.budget * self.step_fraction,
            steps=self.steps,
            seeds=scene.seeds,
            decay=self.decay,
            probability=self.probability,
            rate=self.rate,
            restarts=self.restarts,
            targeted=self.targeted,
        )
