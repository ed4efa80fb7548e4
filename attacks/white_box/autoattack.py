"""AutoAttack: four unlike attacks in turn, each on the images that withstood the ones before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attacks.access import at, scored
from attacks.ball import Norm, size
from attacks.objective import gaps
from attacks.registry import named
from attacks.spec import AttackSpec, Count, GreyLevels, Need, Scene, Steps

ROUNDING = 1e-4
"""Share of ε by which float32 may overstep it."""


def in_turn(members: Sequence[AttackSpec], scene: Scene, *, epsilon: float, norm: Norm) -> Tensor:
    """Run each of ``members`` on the images that none before it has turned.

    An image that is wrong when clean comes back as it was. One that withstands every member keeps
    the attempt that came nearest. Each member's result is judged with one forward pass.

    Args:
        scene: its labels are to reach if the members are targeted, as all or none of them must be.
        epsilon: grey levels in ``norm``; a member's image beyond it counts as a failure.
    """
    targeted = members[0].targeted

    def judged(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """``[M]`` each: the distance to success, infinite outside the ball, and success."""
        labels = scene.labels[rows]
        with torch.no_grad():
            logits, fooled = scored(at(scene.model, rows), x, labels, targeted=targeted)
            nearest = gaps(logits, labels, targeted=targeted).amin(dim=1)
            inside = size(x - scene.pixels[rows], norm) <= epsilon * (1 + ROUNDING)
        return nearest.masked_fill(~inside | nearest.isnan(), torch.inf), fooled & inside

    best = scene.pixels.clone()
    rows = torch.arange(len(best), device=best.device)
    gap, fooled = judged(best, rows)
    rows, gap = rows[~fooled], gap[~fooled]
    for member in members:
        if len(rows) == 0:
            break
        attacked = member.attack(scene.rows(rows))
        new_gap, fooled = judged(attacked, rows)
        better = fooled | (new_gap < gap)
        best[rows[better]] = attacked[better]
        rows, gap = rows[~fooled], torch.minimum(gap, new_gap)[~fooled]
    return best


class AutoAttack(AttackSpec):
    """The standard ensemble: Auto-PGD on the cross-entropy, targeted Auto-PGD, FAB and Square.

    Two and three classes and findings, where the libraries stop or divide by zero, are attacked by
    the bare difference of logits. FAB measures the nearest classes anew in every step where the
    authors' code fixes one target a run."""

    citation: ClassVar = "Croce and Hein 2020, arXiv 2003.01690, section 6"
    needs: ClassVar = frozenset({Need.GRADIENTS, Need.LOGITS})
    smoke: ClassVar = {"steps": 4, "queries": 10, "targets": 2}

    method: Literal["autoattack"] = "autoattack"
    norm: Literal[Norm.LINF, Norm.L2] = Norm.LINF
    epsilon: GreyLevels
    steps: Steps = 100
    """Of each gradient attack, for each target."""
    queries: Count = 5000
    """Of Square."""
    targets: Count = 9
    """Likeliest other classes, or nearest findings, that the targeted members try."""
    restarts: Count = 1
    """Of each gradient attack."""
    until_fooled: bool = False
    """Stop Auto-PGD at an image's first success, as the authors' code does. That is enough to
    count successes; an image on its way further in survives rounding to a file better."""

    @property
    def members(self) -> tuple[AttackSpec, ...]:
        """In the order in which they run."""
        shared: dict[str, Any] = {
            "epsilon": self.epsilon,
            "norm": self.norm,
            "targeted": self.targeted,
        }
        climbing = {**shared, "steps": self.steps, "restarts": self.restarts}
        apgd = {**climbing, "until_fooled": self.until_fooled}
        return (
            named("apgd_ce", parameters=apgd),
            named("apgd_t", parameters={**apgd, "targets": self.targets}),
            named("fab", parameters={**climbing, "candidates": self.targets}),
            named("square", parameters={**shared, "queries": self.queries}),
        )

    def attack(self, scene: Scene) -> Tensor:
        return in_turn(self.members, scene, epsilon=self.budget, norm=self.norm)
