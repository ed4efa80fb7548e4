"""Matching the features of another class's image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacks.ball import Norm
from attacks.gradient import OnFinding, refuse
from attacks.guard_aware.search import (
    Direction,
    benign_levels,
    follow,
    goals,
    guard_of,
    kinds,
    levels,
    search,
)
from attacks.guarded import GuardedModel, Reading
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


@dataclass(frozen=True)
class Guides:
    """What the attacker's images look like inside the network."""

    levels: tuple[Tensor, ...]
    """``float32[M, d_l]`` each."""
    classes: Tensor
    """``int64[M]``."""
    scale: tuple[Tensor, ...]
    """``float32[d_l]``: one over the units' standard deviations."""

    @classmethod
    def of(cls, levels: tuple[Tensor, ...], classes: Tensor) -> Guides:
        """Units that hardly vary count as those of median deviation do, not for infinitely much."""
        scale = []
        for level in levels:
            deviation = level.std(dim=0, unbiased=False)
            scale.append(1 / deviation.clamp(min=max(float(deviation.median()), 1e-6)))
        return cls(levels, classes, tuple(scale))

    def distances(self, levels: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> Tensor:
        """``[N]``: squared standardised distances between pairs, averaged over units and summed
        over levels."""
        return torch.stack(
            [
                ((a - b) * scale).square().mean(dim=1)
                for a, b, scale in zip(levels, others, self.scale, strict=True)
            ]
        ).sum(dim=0)

    def nearest(self, levels: tuple[Tensor, ...], classes: Tensor) -> tuple[Tensor, ...]:
        """``float32[N, d_l]``: for each image the levels of the nearest guide of its class."""
        chosen = []
        for row, kind in enumerate(classes.tolist()):
            mine = tuple(level[row : row + 1] for level in levels)
            distance = self.distances(mine, self.levels).masked_fill(
                self.classes != kind, torch.inf
            )
            if distance.isinf().all():
                raise AttackProblem(f"none of the attacker's images is of class {kind}; give some")
            chosen.append(distance.argmin())
        index = torch.stack(chosen)
        return tuple(level[index] for level in self.levels)


def feature_matching(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    guard: GuardedModel,
    guides: Guides,
    epsilon: float,
    step: float,
    steps: int,
    seeds: Sequence[int],
    weight: float = 0.0,
    restarts: int = 1,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """Signed steps on ``-sum_l ||(g_l(x) - g_l(guide)) / s_l||^2 / d_l``: the image comes to look,
    inside the network, like a benign one of the wanted class, whose answer it then gets.

    The guide is the attacker's image of that class that is nearest to the clean image by the same
    measure. The paper matches one layer; a guard reads several, and the squeezed view, so all of
    them are matched (``levels``).

    Args:
        model: counts the guard's passes if it is an ``Access``.
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        epsilon: L-inf budget in grey levels.
        step: in grey levels.
        weight: of a cross-entropy towards the wanted class beside the match; 0 is the paper's.

    Returns ``float32[N, H, W, C]`` within ε; whole grey levels if ε is at least 1.
    """
    with torch.no_grad():
        clean = guard.readings(pixels, model)
    wanted = goals(clean.logits, labels, targeted=targeted)
    targets = guides.nearest(levels(clean), kinds(wanted))

    def direction(_part: Scene, rows: Tensor) -> Direction:
        mine, goal = tuple(level[rows] for level in targets), wanted[rows]

        def towards(reading: Reading, x: Tensor, _number: int) -> Tensor:
            value = -guides.distances(levels(reading), mine)
            if weight:
                value = value + weight * CrossEntropy(targeted=True)(reading.logits, goal)
            return follow(value, x)

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


class FeatureMatching(AttackSpec):
    """Spec of ``feature_matching``."""

    citation: ClassVar = "Sabour et al. 2016, arXiv 1511.05122, equation 1"
    needs: ClassVar = frozenset({Need.GRADIENTS, Need.GUARD, Need.IMAGES})
    smoke: ClassVar = {"steps": 5, "step_fraction": 0.25}

    method: Literal["feature_matching"] = "feature_matching"
    norm: Literal[Norm.LINF] = Norm.LINF
    epsilon: GreyLevels
    step_fraction: Fraction = 1 / 10
    """Step / ε."""
    steps: Steps = 100
    weight: Annotated[float, Field(ge=0)] = 0.1
    """Of a cross-entropy towards the wanted class beside the match; 0 is the paper's, which stops
    where the features are half way."""
    restarts: Count = 1

    def prepare(self, attacker: Attacker) -> Guides:
        return Guides.of(*benign_levels(guard_of(attacker), attacker.pixels, attacker.labels))

    def attack(self, scene: Scene) -> Tensor:
        return feature_matching(
            scene.model,
            scene.pixels,
            scene.labels,
            guard=guard_of(scene),
            guides=scene.prepared,
            epsilon=self.budget,
            step=self.budget * self.step_fraction,
            steps=self.steps,
            seeds=scene.seeds,
            weight=self.weight,
            restarts=self.restarts,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
