"""Auto-PGD on the cross-entropy."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from attacks.ball import Norm
from attacks.spec import AttackSpec, Count, GreyLevels, Scene, Steps
from attacks.white_box.apgd import apgd


class APGDCrossEntropy(AttackSpec):
    """Spec of ``apgd`` on the cross-entropy."""

    citation: ClassVar = "Croce and Hein 2020, arXiv 2003.01690, algorithm 1"
    smoke: ClassVar = {"steps": 8}

    method: Literal["apgd_ce"] = "apgd_ce"
    norm: Literal[Norm.LINF, Norm.L2] = Norm.LINF
    epsilon: GreyLevels
    steps: Steps = 100
    restarts: Count = 1
    until_fooled: bool = False
    """Stop an image at its first success: fewer passes, weaker images."""

    def attack(self, scene: Scene) -> Tensor:
        return apgd(
            scene.model,
            scene.pixels,
            scene.labels,
            epsilon=self.budget,
            steps=self.steps,
            seeds=scene.seeds,
            norm=self.norm,
            restarts=self.restarts,
            targeted=self.targeted,
            until_fooled=self.until_fooled,
            on_finding=scene.on_finding,
        )
