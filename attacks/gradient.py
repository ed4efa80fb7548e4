"""The one loop of the gradient attacks: a steepest step, back into the ball, repeat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from attacks.ball import Ball, Norm, steepest
from attacks.objective import Model, Objective, reached


class Ailment(StrEnum):
    """What can be wrong with a gradient. Either makes an attack look weaker than it is."""

    ZERO = "zero"
    """Every component is exactly 0 before the attack has reached its goal: saturation, rounding
    or an operation without a derivative hides the model."""
    NOT_FINITE = "not finite"
    """NaN or infinite components."""
    NONE = "none"
    """The output is not connected to the pixels by differentiable operations."""


@dataclass(frozen=True, slots=True)
class GradientFinding:
    """A gradient that could not guide the attack on some images of a batch."""

    ailment: Ailment
    rows: tuple[int, ...]
    """Indices into the batch. These images took at least one step without guidance."""

    def __str__(self) -> str:
        return f"{self.ailment} gradient on {len(self.rows)} image(s): {_ADVICE[self.ailment]}"


_ADVICE = {
    Ailment.ZERO: "attack the logits before any softmax, rounding or clipping, or use an attack "
    "that needs no gradient",
    Ailment.NOT_FINITE: "look for a division by zero, a log or a square root of 0 in the model or "
    "in its preprocessing",
    Ailment.NONE: "the model must be made of torch operations from pixels to logits; for another "
    "kind of model use an attack that needs no gradient",
}


class GradientProblem(Exception):
    """The model's gradient cannot guide an attack; its ``finding`` says how."""

    def __init__(self, finding: GradientFinding) -> None:
        super().__init__(str(finding))
        self.finding = finding


OnFinding = Callable[[GradientFinding], None]


def refuse(finding: GradientFinding) -> None:
    """Raise ``GradientProblem``: what an attack does unless it is told to record instead."""
    raise GradientProblem(finding)


class Guidance:
    """Watches an attack's gradients without a transfer a step; tells what was wrong at the end."""

    def __init__(self, pixels: Tensor) -> None:
        """``pixels``: ``float32[N, H, W, C]``, the batch."""
        self._zero = torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
        self._not_finite = torch.zeros_like(self._zero)

    def note(self, gradient: Tensor, arrived: Tensor) -> Tensor:
        """``bool[N]``: whose gradient is finite. A zero one is an ailment unless ``arrived``, the
        ``bool[N]`` of images that have reached their goal."""
        largest: Tensor = torch.linalg.vector_norm(gradient, ord=float("inf"), dim=(1, 2, 3))
        finite = largest.isfinite()
        self._not_finite |= ~finite
        self._zero |= (largest == 0) & ~arrived
        return finite

    def report(self, on_finding: OnFinding) -> None:
        """Call ``on_finding`` once for each ailment that was met."""
        for ailment, met in (
            (Ailment.NOT_FINITE, self._not_finite),
            (Ailment.ZERO, self._zero),
        ):
            if met.any():
                on_finding(GradientFinding(ailment, tuple(met.nonzero()[:, 0].tolist())))


def ascend(
    model: Model,
    start: Tensor,
    labels: Tensor,
    ball: Ball,
    *,
    objective: Objective,
    step: float,
    steps: int,
    momentum: float | None = None,
    transform: Callable[[Tensor, int], Tensor] | None = None,
    shape_gradient: Callable[[Tensor], Tensor] | None = None,
    project: Callable[[Tensor], Tensor] | None = None,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """``x <- project(x + step * steepest(∇_x objective(model(x), y)))``, ``steps`` times; for L-inf
    the steepest direction is the sign.

    Only the gradient with respect to the pixels is computed. An image never sees its batch
    mates: the objective's sum has a gradient of its own for every image.

    Args:
        start: ``float32[N, H, W, C]`` inside ``ball``.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave or (targeted objective) to reach.
        step: length of a step in the ball's norm, in grey levels.
        momentum: decay μ of ``g <- μ g + ∇ / ||∇||_1`` (Dong et al. 2018, equation 6), whose
            direction is then followed in place of the gradient's.
        transform: pixels and the step's number to the pixels that the model sees in this step.
        shape_gradient: applied to the gradient before anything else.
        project: what brings a step back, in place of ``ball.project``.
        on_finding: called after the last step with what was wrong with the gradients. An image
            whose gradient is not finite stays where it was in that step.

    Returns the last iterate, ``float32[N, H, W, C]``, detached.
    """
    if step < 0 or steps < 0:
        raise ValueError(f"step {step} and steps {steps} must not be negative")
    x = start.detach()
    guidance = Guidance(x)
    velocity: Tensor | None = None
    for number in range(steps):
        x = x.requires_grad_()
        logits = model(x if transform is None else transform(x, number))
        value = objective(logits, labels)
        if not value.requires_grad:
            on_finding(GradientFinding(Ailment.NONE, tuple(range(len(x)))))
            return start.detach()
        (gradient,) = torch.autograd.grad(value.sum(), x)
        with torch.no_grad():
            arrived = reached(logits, labels, targeted=objective.targeted)
            finite = guidance.note(gradient, arrived)
            if shape_gradient is not None:
                gradient = shape_gradient(gradient)
            gradient = gradient.masked_fill_(~finite.view(-1, 1, 1, 1), 0)
            if momentum is not None:
                length = gradient.abs().sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
                gradient = gradient / length
                velocity = gradient if velocity is None else momentum * velocity + gradient
                gradient = velocity
            if project is None and ball.norm is Norm.LINF:
                x = gradient.sign().mul_(step).add_(x).clamp_(ball.lower, ball.upper)
                continue
            if ball.norm is not Norm.LINF:
                gradient = ball.feasible(x, gradient)
            stepped = x + step * steepest(gradient, ball.norm)
            x = ball.project(stepped) if project is None else project(stepped)
    guidance.report(on_finding)
    return x.detach()
