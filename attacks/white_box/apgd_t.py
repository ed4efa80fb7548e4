"""Auto-PGD towards one likely other class after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks.ball import Norm
from attacks.gradient import OnFinding, refuse
from attacks.objective import Model, gaps
from attacks.spec import AttackSpec, Count, GreyLevels, Scene, Steps
from attacks.white_box.apgd import Loss, apgd


def apgd_t(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    steps: int,
    seeds: Sequence[int],
    norm: Norm = Norm.LINF,
    targets: int = 9,
    restarts: int = 1,
    targeted: bool = False,
    until_fooled: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """``apgd`` on the targeted difference of logits ratio (equation 7) for the ``targets`` nearest
    ways to succeed, nearest first: other classes by their clean logit, or findings to flip.

    Two classes have one target and three have two, where the loss is the bare difference
    ``z_t - z_y``: the ratio needs four. If ``targeted``, there is the one label to reach.

    Arguments and result are those of ``apgd``.
    """
    with torch.no_grad():
        nearest = gaps(model(pixels), labels, targeted=targeted).argsort(dim=1, stable=True)

    def towards(rank: int) -> Loss:
        return lambda logits, rows: _ratio(logits, labels[rows], nearest[rows, rank], targeted)

    return apgd(
        model,
        pixels,
        labels,
        epsilon=epsilon,
        steps=steps,
        seeds=seeds,
        norm=norm,
        restarts=restarts,
        targeted=targeted,
        losses=[towards(rank) for rank in range(min(targets, nearest.shape[1]))],
        until_fooled=until_fooled,
        on_finding=on_finding,
    )


def _ratio(logits: Tensor, labels: Tensor, way: Tensor, targeted: bool) -> Tensor:
    """``-(z_y - z_t) / (z_π1 - (z_π3 + z_π4) / 2)``, ``[N]``, for the gap at ``way``."""
    gap = gaps(logits, labels, targeted=targeted).gather(1, way[:, None])[:, 0]
    if labels.ndim == 2 or logits.shape[1] < 4:
        return -gap
    ordered = logits.sort(dim=1, descending=True).values
    return -gap / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2).clamp(min=1e-12)


class APGDTargeted(AttackSpec):
    """Spec of ``apgd_t``."""

    citation: ClassVar = "Croce and Hein 2020, arXiv 2003.01690, algorithm 1 and equation 7"
    smoke: ClassVar = {"steps": 6}

    method: Literal["apgd_t"] = "apgd_t"
    norm: Literal[Norm.LINF, Norm.L2] = Norm.LINF
    epsilon: GreyLevels
    steps: Steps = 100
    targets: Count = 9
    restarts: Count = 1
    until_fooled: bool = False
    """Stop an image at its first success: fewer passes, weaker images."""

    def attack(self, scene: Scene) -> Tensor:
        return apgd_t(
            scene.model,
            scene.pixels,
            scene.labels,
            epsilon=self.budget,
            steps=self.steps,
            seeds=scene.seeds,
            norm=self.norm,
            targets=self.targets,
            restarts=self.restarts,
            targeted=self.targeted,
            until_fooled=self.until_fooled,
            on_finding=scene.on_finding,
        )
