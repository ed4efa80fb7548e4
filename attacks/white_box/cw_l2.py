"""Carlini and Wagner's L2 attack: the smallest change that wins by a margin."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from attacks.access import at
from attacks.ball import WHITE, Norm, size
from attacks.gradient import OnFinding, refuse
from attacks.minimum import Closest, ConstantSearch, GradientHealth, Progress, each, won
from attacks.objective import Margin, Model
from attacks.spec import AttackSpec, Count, Kind, Scene, Steps

_HALF = WHITE / 2
_INSIDE = 0.999999  # arctanh is infinite at black and white; the authors' code shrinks by the same


def cw_l2(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    confidence: float = 0.0,
    steps: int = 1000,
    learning_rate: float = 0.01,
    search_steps: int = 9,
    initial_constant: float = 1e-3,
    abort_early: bool = True,
    epsilon: float | None = None,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """Minimise ``||x - source||² + c max(min_j gap_j(x) + κ, 0)`` over w, where
    ``x = (tanh(w) + 1) / 2``, by Adam, for the smallest c that succeeds. x runs from 0 to 1 in
    this sum, as the paper's constants assume.

    Each image has its own c, its own Adam, its own best image and its own end: none waits for its
    batch mates.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        confidence: κ, in logits.
        steps: Adam's steps for each c.
        learning_rate: of Adam on w.
        search_steps: how many c to try.
        initial_constant: the first c.
        abort_early: end a descent whose loss has not fallen for a tenth of its steps.
        epsilon: farthest L2 distance in grey levels that counts as success.
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]``: the source where no image was found.
    """
    objective = Margin(confidence, targeted=targeted)
    closest, health = Closest.to(pixels), GradientHealth(pixels)
    search = ConstantSearch.starting_at(initial_constant, pixels)
    everyone = torch.arange(len(pixels), device=pixels.device)

    def look(view: Model, w: Tensor, goal: Tensor) -> _Look:
        squashed = torch.tanh(w)
        x = (squashed + 1).mul_(_HALF).requires_grad_()
        logits = view(x)
        margin = objective(logits, goal)
        if health.connected(margin):
            (gradient,) = torch.autograd.grad(margin.sum(), x)
        else:
            gradient = None
        success = won(logits.detach(), goal, confidence=confidence, targeted=targeted)
        return _Look(squashed, x.detach(), margin.detach(), gradient, success)

    # Every constant's descent starts at the source: it is looked at once.
    start = torch.arctanh((pixels / _HALF - 1) * _INSIDE)
    first = look(model, start, labels)
    there = first.success
    closest.offer(everyone, pixels, there, torch.zeros_like(closest.length))
    open_rows = everyone[~there]

    def descend(rows: Tensor) -> Tensor:
        """``bool[N]``: which of the images at ``rows`` their constant has turned."""
        turned = torch.zeros_like(there)
        source, constant, w = pixels[rows], search.constant[rows], start[rows]
        mean, square = torch.zeros_like(w), torch.zeros_like(w)
        progress = Progress(len(rows), steps, rows.device)
        view, goal = at(model, rows), labels[rows]
        for step in range(steps):
            seen = first.rows(rows) if step == 0 else look(view, w, goal)
            if seen.gradient is None:
                break
            turned[rows] |= seen.success
            change = seen.x - source
            length = size(change, Norm.L2)
            closest.offer(rows, seen.x, seen.success, length)
            gradient = health.mended(seen.gradient, rows, ~seen.success)
            slope = change.mul_(2 / WHITE**2).sub_(gradient * each(constant))
            slope.mul_(seen.squashed.square_().neg_().add_(1)).mul_(_HALF)
            _adam(w, slope, mean, square, step, learning_rate)
            if abort_early:
                loss = (length / WHITE) ** 2 - constant * seen.margin.to(constant.dtype)
                kept = progress.kept(step, loss)
                if kept is not None:
                    if len(kept) == 0:
                        break
                    rows, source, constant, goal = (
                        part[kept] for part in (rows, source, constant, goal)
                    )
                    w, mean, square = w[kept], mean[kept], square[kept]
                    view = at(model, rows)
        return turned

    if len(open_rows):
        for _ in range(search_steps):
            search.narrow(descend(open_rows))
    health.report(on_finding)
    return closest.within(epsilon, Norm.L2)


class _Look(NamedTuple):
    """What the model says of a point of the search, detached; N images."""

    squashed: Tensor
    """``tanh(w)``."""
    x: Tensor
    margin: Tensor
    gradient: Tensor | None
    """Of the margin in x; None where the model has none."""
    success: Tensor

    def rows(self, index: Tensor) -> _Look:
        """Copies of those at ``index``."""
        gradient = None if self.gradient is None else self.gradient[index]
        return _Look(
            self.squashed[index], self.x[index], self.margin[index], gradient, self.success[index]
        )


def _adam(
    w: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: int, learning_rate: float
) -> None:
    """Move ``w`` and the means of the gradient and of its square, in place: a step's arithmetic
    costs as much as its passes over memory (Kingma and Ba 2015, algorithm 1, with the constants
    given there)."""
    mean.lerp_(gradient, 0.1)
    square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    spread = (square / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-8)
    w.addcdiv_(mean, spread, value=-learning_rate / (1 - 0.9 ** (step + 1)))


class CWL2(AttackSpec):
    """Spec of ``cw_l2``."""

    citation: ClassVar = "Carlini and Wagner 2017, arXiv 1608.04644, section VI-A"
    kind: ClassVar = Kind.MINIMUM
    smoke: ClassVar = {
        "steps": 25,
        "search_steps": 2,
        "initial_constant": 1.0,
        "learning_rate": 0.05,
    }

    method: Literal["cw_l2"] = "cw_l2"
    norm: Literal[Norm.L2] = Norm.L2
    confidence: Annotated[float, Field(ge=0, json_schema_extra={"unit": "logits"})] = 0.0
    """κ: by how much the wrong answer must win."""
    steps: Steps = 1000
    """Of Adam, for each constant."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.01
    search_steps: Count = 9
    """How many constants c are tried."""
    initial_constant: Annotated[float, Field(gt=0, le=1e10)] = 1e-3
    abort_early: bool = True
    """End an image's descent that has stopped making progress."""

    def attack(self, scene: Scene) -> Tensor:
        return cw_l2(
            scene.model,
            scene.pixels,
            scene.labels,
            confidence=self.confidence,
            steps=self.steps,
            learning_rate=self.learning_rate,
            search_steps=self.search_steps,
            initial_constant=self.initial_constant,
            abort_early=self.abort_early,
            epsilon=self.epsilon,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
