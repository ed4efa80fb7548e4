"""Hierarchical feature constraint: hidden among benign features at every depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from sklearn.covariance import ledoit_wolf
from sklearn.mixture import GaussianMixture
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

FEWEST = 25
"""Images a component, below which its mean says more of single images than of a class."""


@dataclass(frozen=True)
class Mixture:
    """``sum_k π_k N(μ_k, S)`` of one class at one level; the covariance is tied over components."""

    log_weight: Tensor
    """``float32[k]``."""
    mean: Tensor
    """``float32[k, d]``."""
    whitening: Tensor
    """``float32[d, d]``: P with ``P P^T = S^-1``, the Cholesky factor of the precision."""

    @classmethod
    def fit(cls, x: Tensor, components: int, seed: int) -> Mixture:
        """Fit on ``float32[M, d]``, with a component for every ``FEWEST`` images at most. The
        covariance is shrunk by Ledoit and Wolf (2004): an attacker has few images."""
        rows = x.double().cpu().numpy()
        count = max(1, min(components, len(rows) // FEWEST))
        deviation = rows.std(axis=0)
        scale = np.maximum(deviation, max(0.01 * float(np.median(deviation)), 1e-6))
        standard = rows / scale
        mixture = GaussianMixture(count, covariance_type="diag", random_state=seed).fit(standard)
        residual = standard - mixture.means_[mixture.predict(standard)]
        covariance, _ = ledoit_wolf(residual, assume_centered=True)
        covariance += 1e-6 * np.eye(len(covariance))
        whitening = np.linalg.cholesky(np.linalg.inv(covariance)) / scale[:, None]
        return cls(
            x.new_tensor(np.log(np.maximum(mixture.weights_, 1e-12))),
            x.new_tensor(mixture.means_ * scale),
            x.new_tensor(whitening),
        )

    def distance(self, x: Tensor) -> Tensor:
        """``[N]``: ``||(x - μ_k*) P||^2`` to the component most likely to have made ``x``."""
        squared = ((x[:, None] - self.mean) @ self.whitening).square().sum(dim=2)
        likeliest = (self.log_weight - squared / 2).argmax(dim=1, keepdim=True)
        return squared.gather(1, likeliest)[:, 0]


Mixtures = dict[int, tuple[Mixture, ...]]
"""By class, one mixture a level."""


def hfc(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    guard: GuardedModel,
    mixtures: Mixtures,
    epsilon: float,
    step: float,
    steps: int,
    seeds: Sequence[int],
    weight: float = 1.0,
    restarts: int = 1,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """Signed steps on ``-CE(f(x), t) - λ sum_l ||(g_l(x) - μ_lk*) P_lk*||^2 / d_l`` with ``t`` the
    target, or the class that the clean image is nearest to, ``g_l`` what the guard reads at every
    depth and of the squeezed view (``levels``) and ``k*`` the likeliest component of benign images
    of class ``t``.

    Args:
        model: counts the guard's passes if it is an ``Access``.
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        mixtures: of the benign features of every class.
        epsilon: L-inf budget in grey levels.
        step: in grey levels.
        weight: λ.

    Returns ``float32[N, H, W, C]`` within ε; whole grey levels if ε is at least 1.
    """
    with torch.no_grad():
        clean = model(pixels)
    wanted = goals(clean, labels, targeted=targeted)
    missing = set(kinds(wanted).tolist()) - set(mixtures)
    if missing:
        raise AttackProblem(f"none of the attacker's images is of class {min(missing)}; give some")

    def far(features: tuple[Tensor, ...], classes: Tensor) -> Tensor:
        """``[N]``: how untypical the features are of each image's class."""
        total = features[0].new_zeros(len(classes))
        for kind in sorted(set(classes.tolist())):
            rows = (classes == kind).nonzero()[:, 0]
            share = torch.stack(
                [
                    mixture.distance(level[rows]) / level.shape[1]
                    for mixture, level in zip(mixtures[kind], features, strict=True)
                ]
            )
            total = total.index_add(0, rows, share.sum(dim=0))
        return total

    def direction(_part: Scene, rows: Tensor) -> Direction:
        goal = wanted[rows]

        def towards(reading: Reading, x: Tensor, _number: int) -> Tensor:
            value = CrossEntropy(targeted=True)(reading.logits, goal)
            return follow(value - weight * far(levels(reading), kinds(goal)), x)

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


class HFC(AttackSpec):
    """Spec of ``hfc``."""

    citation: ClassVar = "Yao et al. 2021, arXiv 2012.09501, equations 6 to 8, on PGD"
    needs: ClassVar = frozenset({Need.GRADIENTS, Need.GUARD, Need.IMAGES})
    smoke: ClassVar = {"steps": 5, "step_fraction": 0.25}

    method: Literal["hfc"] = "hfc"
    norm: Literal[Norm.LINF] = Norm.LINF
    epsilon: GreyLevels
    step_fraction: Fraction = 1 / 10
    """Step / ε."""
    steps: Steps = 100
    weight: Annotated[float, Field(ge=0)] = 1.0
    """λ of the feature constraint."""
    components: Count = 64
    """Of a class's mixture at most; fewer where there are few images."""
    restarts: Count = 1

    def prepare(self, attacker: Attacker) -> Mixtures:
        features, classes = benign_levels(guard_of(attacker), attacker.pixels, attacker.labels)
        return {
            kind: tuple(
                Mixture.fit(level[classes == kind], self.components, attacker.seed % 2**32)
                for level in features
            )
            for kind in sorted(set(classes.tolist()))
        }

    def attack(self, scene: Scene) -> Tensor:
        return hfc(
            scene.model,
            scene.pixels,
            scene.labels,
            guard=guard_of(scene),
            mixtures=scene.prepared,
            epsilon=self.budget,
            step=self.budget * self.step_fraction,
            steps=self.steps,
            seeds=scene.seeds,
            weight=self.weight,
            restarts=self.restarts,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
