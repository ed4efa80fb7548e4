"""Universal adversarial perturbation: one for all images, learned before any of them is seen."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from attacks.ball import WHITE, Norm
from attacks.beyond_noise.learned import Learned, Schedule, commonest_shape, learn, resized
from attacks.spec import (
    Attacker,
    AttackSpec,
    Count,
    Fraction,
    GreyLevels,
    Labels,
    Need,
    Scene,
)


def universal(pixels: Tensor, perturbations: Tensor) -> Tensor:
    """``x + v``, clipped to the grey range: no query at all.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        perturbations: ``float32[N, h, w, C]``, each image's; resized to the image.

    Returns ``float32[N, H, W, C]``, within the perturbations' L-inf bound of ``pixels``.
    """
    return (pixels + resized(perturbations, *pixels.shape[1:])).clamp(0, WHITE)


def learn_universal(
    attacker: Attacker,
    *,
    epsilon: float,
    schedule: Schedule,
    targeted: bool = False,
    leave: Labels = Labels.TRUE,
) -> Learned:
    """The perturbation of at most ``epsilon`` grey levels (L-inf) that fools the most of the
    attacker's images, at the size that most of them have, by sign steps."""

    def apply(copies: Tensor, pixels: Tensor, rng: np.random.Generator) -> Tensor:
        del rng
        return universal(pixels, copies)

    return learn(
        attacker,
        torch.zeros(commonest_shape(attacker.pixels)).to(attacker.pixels[0]),
        apply,
        (-epsilon, epsilon),
        schedule,
        targeted=targeted,
        leave=leave,
    )


class Universal(AttackSpec):
    """Spec of ``universal``."""

    citation: ClassVar = (
        "Moosavi-Dezfooli et al. 2017, arXiv 1610.08401; learned by sign steps as in Shafahi et "
        "al. 2020, arXiv 1811.11304"
    )
    needs: ClassVar = frozenset({Need.GRADIENTS, Need.IMAGES})
    smoke: ClassVar = {"epochs": 3}

    method: Literal["universal"] = "universal"
    norm: Literal[Norm.LINF] = Norm.LINF
    epsilon: GreyLevels
    epochs: Count = 30
    """Passes over the attacker's images."""
    batch: Count = 16
    step_fraction: Fraction = 1 / 4
    """First step / ε."""

    def prepare(self, attacker: Attacker) -> Learned:
        return learn_universal(
            attacker,
            epsilon=self.budget,
            schedule=Schedule(self.budget * self.step_fraction, self.epochs, self.batch),
            targeted=self.targeted,
            leave=self.labels,
        )

    def attack(self, scene: Scene) -> Tensor:
        learned: Learned = scene.prepared
        learned.report(len(scene.pixels), scene.on_finding)
        return universal(scene.pixels, learned.of(scene.labels))
