"""The one loop of the L-inf gradient attacks: step along the sign, stay in the box, repeat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from attacks.objective import Model, Objective, reached

WHITE = 255.0


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


@dataclass(frozen=True, slots=True)
class Box:
    """The L-inf ball around the source met with the grey range: ``[x - ε, x + ε] ∩ [0, 255]``."""

    lower: Tensor
    upper: Tensor

    @classmethod
    def around(cls, pixels: Tensor, epsilon: float) -> Box:
        """Bounds like ``pixels``, ``float32[N, H, W, C]``; ``epsilon`` in grey levels."""
        if not pixels.is_floating_point():
            raise ValueError(f"pixels are {pixels.dtype}; give float32 grey levels")
        if not 0 <= epsilon <= WHITE:
            raise ValueError(f"epsilon is {epsilon}; give grey levels from 0 to 255")
        return cls((pixels - epsilon).clamp_(min=0), (pixels + epsilon).clamp_(max=WHITE))

    def clamp(self, pixels: Tensor) -> Tensor:
        """The nearest point of the box."""
        return torch.clamp(pixels, self.lower, self.upper)


def ascend(
    model: Model,
    start: Tensor,
    labels: Tensor,
    box: Box,
    *,
    objective: Objective,
    step: float,
    steps: int,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """``x <- clamp(x + step * sign(∇_x objective(model(x), y)))``, ``steps`` times.

    Only the gradient with respect to the pixels is computed. An image never sees its batch
    mates: the objective's sum has a gradient of its own for every image.

    Args:
        start: ``float32[N, H, W, C]`` inside ``box``.
        labels: ``int64[N]``, classes to leave or (targeted objective) to reach.
        step: grey levels.
        on_finding: called after the last step with what was wrong with the gradients. An image
            whose gradient is not finite stays where it was in that step.

    Returns the last iterate, ``float32[N, H, W, C]``, detached.
    """
    if step < 0 or steps < 0:
        raise ValueError(f"step {step} and steps {steps} must not be negative")
    x = start.detach()
    everyone = tuple(range(len(x)))
    no_guidance = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    not_finite = torch.zeros_like(no_guidance)
    for _ in range(steps):
        x = x.requires_grad_()
        logits = model(x)
        value = objective(logits, labels)
        if not value.requires_grad:
            on_finding(GradientFinding(Ailment.NONE, everyone))
            return start.detach()
        (gradient,) = torch.autograd.grad(value.sum(), x)
        with torch.no_grad():
            # one reduction, one buffer and no transfer a step: findings are read after the loop
            largest = torch.linalg.vector_norm(gradient, ord=float("inf"), dim=(1, 2, 3))
            finite = largest.isfinite()
            not_finite |= ~finite
            no_guidance |= (largest == 0) & ~reached(logits, labels, targeted=objective.targeted)
            direction = gradient.sign().masked_fill_(~finite.view(-1, 1, 1, 1), 0)
            x = direction.mul_(step).add_(x).clamp_(box.lower, box.upper)
    for ailment, rows in ((Ailment.NOT_FINITE, not_finite), (Ailment.ZERO, no_guidance)):
        if rows.any():
            on_finding(GradientFinding(ailment, tuple(rows.nonzero()[:, 0].tolist())))
    return x.detach()
