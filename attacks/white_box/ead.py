"""Elastic-net attack: sparse changes, found by shrinkage and thresholding."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacks.access import at
from attacks.ball import WHITE, Norm, size
from attacks.gradient import OnFinding, refuse
from attacks.minimum import Closest, ConstantSearch, GradientHealth, Progress, each, won
from attacks.objective import Margin, Model
from attacks.spec import AttackSpec, Count, Kind, Scene, Steps


class Rule(StrEnum):
    """By what the smallest of the successful images is chosen."""

    EN = "en"
    """The elastic-net distance ``β ||δ||_1 + ||δ||_2²``, δ in 0 to 1."""
    L1 = "l1"


def ead(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    rule: Rule = Rule.EN,
    beta: float = 1e-2,
    confidence: float = 0.0,
    steps: int = 1000,
    learning_rate: float = 0.01,
    search_steps: int = 9,
    initial_constant: float = 1e-3,
    accelerated: bool = False,
    abort_early: bool = True,
    epsilon: float | None = None,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """Minimise ``c max(min_j gap_j(x) + κ, 0) + β ||x - source||_1 + ||x - source||²`` for the
    smallest c that succeeds, pixels running from 0 to 1:
    ``x <- S_β(y - α_k ∇(...)(y))`` without the L1 term, ``y <- x + k / (k + 3) (x - x_last)``.

    Plain (ISTA), y is x and a step costs one forward pass: the gradient's judges too. Accelerated
    (FISTA), as in the authors' code, x is judged with a pass of its own; y itself runs too far
    ahead to be a small change. At equal steps both end equally close.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        beta: β, also the threshold of S_β, in units of the full grey range.
        confidence: κ, in logits.
        steps: for each c.
        learning_rate: α_0; ``α_k = α_0 sqrt(1 - k / steps)``.
        search_steps: how many c to try.
        initial_constant: the first c.
        accelerated: FISTA; otherwise ISTA, where y is x.
        abort_early: end a descent whose loss has not fallen for a tenth of its steps.
        epsilon: farthest L1 distance in grey levels that counts as success.
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]``: the source where no image was found.
    """
    objective = Margin(confidence, targeted=targeted)
    closest, health = Closest.to(pixels), GradientHealth(pixels)
    search = ConstantSearch.starting_at(initial_constant, pixels)
    everyone = torch.arange(len(pixels), device=pixels.device)
    with torch.no_grad():
        there = won(model(pixels), labels, confidence=confidence, targeted=targeted)
    closest.offer(everyone, pixels, there, torch.zeros_like(closest.length))
    open_rows = everyone[~there]

    def measures(change: Tensor) -> tuple[Tensor, Tensor]:
        absolute = size(change, Norm.L1)
        return absolute, beta * absolute / WHITE + (size(change, Norm.L2) / WHITE) ** 2

    def offer(
        rows: Tensor, candidates: Tensor, success: Tensor, absolute: Tensor, elastic: Tensor
    ) -> None:
        closest.offer(rows, candidates, success, elastic if rule is Rule.EN else absolute)

    def descend(rows: Tensor) -> Tensor:
        """``bool[N]``: which of the images at ``rows`` their constant has turned."""
        turned = torch.zeros_like(there)
        source, constant = pixels[rows], search.constant[rows]
        x = y = source
        progress = Progress(len(rows), steps, rows.device)
        view, goal = at(model, rows), labels[rows]
        for step in range(steps):
            y = y.detach().requires_grad_()
            logits = view(y)
            margin = objective(logits, goal)
            if not health.connected(margin):
                break
            (gradient,) = torch.autograd.grad(margin.sum(), y)
            with torch.no_grad():
                change = y - source
                absolute, elastic = measures(change)
                success = won(logits, goal, confidence=confidence, targeted=targeted)
                if not accelerated:
                    offer(rows, y, success, absolute, elastic)
                    turned[rows] |= success
                gradient = health.mended(gradient, rows, ~success)
                # d/d(y / 255) of c f + ||(y - source) / 255||²
                slope = 2 * change / WHITE - each(constant) * gradient * WHITE
                rate = learning_rate * math.sqrt(1 - step / steps)
                last, x = x, _shrunk(y - rate * slope * WHITE, source, beta * WHITE)
                y = x
                if accelerated:
                    success = won(view(x), goal, confidence=confidence, targeted=targeted)
                    offer(rows, x, success, *measures(x - source))
                    turned[rows] |= success
                    y = (x + step / (step + 3) * (x - last)).clamp_(0, WHITE)
                if abort_early:
                    loss = elastic - constant * margin.to(constant.dtype)
                    kept = progress.kept(step, loss)
                    if kept is not None:
                        if len(kept) == 0:
                            break
                        rows, source, constant, goal, x, y = (
                            part[kept] for part in (rows, source, constant, goal, x, y)
                        )
                        view = at(model, rows)
        return turned

    if len(open_rows):
        for _ in range(search_steps):
            search.narrow(descend(open_rows))
    health.report(on_finding)
    return closest.within(epsilon, Norm.L1)


def _shrunk(pixels: Tensor, source: Tensor, threshold: float) -> Tensor:
    """S_β, equation 5: what is within ``threshold`` of the source returns to it, the rest comes
    closer by as much; then into the grey range."""
    change = pixels - source
    nearer = change.sign() * (change.abs() - threshold).clamp_(min=0)
    return (source + nearer).clamp_(0, WHITE)


class EAD(AttackSpec):
    """Spec of ``ead``."""

    citation: ClassVar = "Chen et al. 2018, arXiv 1709.04114, algorithm 1"
    kind: ClassVar = Kind.MINIMUM
    smoke: ClassVar = {"steps": 25, "search_steps": 2, "initial_constant": 1.0}

    method: Literal["ead"] = "ead"
    norm: Literal[Norm.L1] = Norm.L1
    rule: Rule = Rule.EN
    """By what the smallest of the successful images is chosen."""
    beta: Annotated[float, Field(ge=0, le=1)] = 1e-2
    """β: weight of the L1 term, and the smallest change of a pixel as a share of the grey
    range."""
    confidence: Annotated[float, Field(ge=0, json_schema_extra={"unit": "logits"})] = 0.0
    """κ: by how much the wrong answer must win."""
    steps: Steps = 1000
    """For each constant."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.01
    search_steps: Count = 9
    """How many constants c are tried."""
    initial_constant: Annotated[float, Field(gt=0, le=1e10)] = 1e-3
    accelerated: bool = False
    """FISTA, of two forward passes a step; otherwise ISTA, of one."""
    abort_early: bool = True
    """End an image's descent that has stopped making progress."""

    def attack(self, scene: Scene) -> Tensor:
        return ead(
            scene.model,
            scene.pixels,
            scene.labels,
            rule=self.rule,
            beta=self.beta,
            confidence=self.confidence,
            steps=self.steps,
            learning_rate=self.learning_rate,
            search_steps=self.search_steps,
            initial_constant=self.initial_constant,
            accelerated=self.accelerated,
            abort_early=self.abort_early,
            epsilon=self.epsilon,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
