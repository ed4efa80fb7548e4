"""Projected gradient descent: Madry et al. (2018), arXiv 1706.06083, section 2.1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from attacks.gradient import Box, GradientFinding, OnFinding, ascend, refuse
from attacks.objective import CrossEntropy, Model, reached
from attacks.spec import AttackSpec, Fraction, Steps


def random_start(pixels: Tensor, epsilon: float, seeds: Sequence[int], restart: int) -> Tensor:
    """``x + U(-ε, ε)``, ``float32[N, H, W, C]``. An image's noise depends on its own seed, the
    restart and its shape, and on nothing else: not on its batch, the device or torch's state."""
    noise = np.stack(
        [
            np.random.default_rng((seed, restart)).random(pixels.shape[1:], dtype=np.float32)
            for seed in seeds
        ]
    )
    return pixels + torch.from_numpy(noise).to(pixels).mul_(2).sub_(1).mul_(epsilon)


def pgd(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
    seeds: Sequence[int],
    restarts: int = 1,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """``bim`` from a uniformly random point of the ball, tried again where it failed.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]``, classes to leave, or to reach if ``targeted``.
        epsilon: L-inf budget in grey levels.
        step: α in grey levels.
        seeds: one non-negative integer an image.
        restarts: starting points to try. Later ones run only on images that no earlier one has
            fooled; an image that withstands them all keeps the one with the highest loss.
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]`` in ``[x - ε, x + ε] ∩ [0, 255]``.
    """
    if len(seeds) != len(pixels):
        raise ValueError(f"{len(seeds)} seeds for {len(pixels)} images; give one each")
    objective = CrossEntropy(targeted)

    def climb(rows: Tensor, restart: int) -> Tensor:
        def at_rows(finding: GradientFinding) -> None:
            indices = rows.tolist()
            on_finding(replace(finding, rows=tuple(indices[row] for row in finding.rows)))

        box = Box.around(pixels[rows], epsilon)
        noise_seeds = [seeds[row] for row in rows.tolist()]
        return ascend(
            model,
            box.clamp(random_start(pixels[rows], epsilon, noise_seeds, restart)),
            labels[rows],
            box,
            objective=objective,
            step=step,
            steps=steps,
            on_finding=at_rows,
        )

    def judge(candidates: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            logits = model(candidates)
            return (
                objective(logits, labels[rows]),
                reached(logits, labels[rows], targeted=targeted),
            )

    rows = torch.arange(len(pixels), device=pixels.device)
    best = climb(rows, 0)
    if restarts > 1:
        value, done = judge(best, rows)
        for restart in range(1, restarts):
            rows = (~done).nonzero()[:, 0]
            if len(rows) == 0:
                break
            candidates = climb(rows, restart)
            new_value, new_done = judge(candidates, rows)
            better = new_done | (new_value > value[rows])
            best[rows[better]] = candidates[better]
            value[rows[better]] = new_value[better]
            done[rows] |= new_done
    return best


class PGD(AttackSpec):
    """Spec of ``pgd``."""

    method: Literal["pgd"] = "pgd"
    step_fraction: Fraction = 1 / 10
    """α / ε."""
    steps: Steps = 20
    restarts: Annotated[int, Field(gt=0, le=1000)] = 1

    def attack(
        self,
        model: Model,
        pixels: Tensor,
        labels: Tensor,
        seeds: Sequence[int],
        on_finding: OnFinding = refuse,
    ) -> Tensor:
        return pgd(
            model,
            pixels,
            labels,
            epsilon=self.epsilon,
            step=self.epsilon * self.step_fraction,
            steps=self.steps,
            seeds=seeds,
            restarts=self.restarts,
            targeted=self.targeted,
            on_finding=on_finding,
        )
