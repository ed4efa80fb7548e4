"""Auto-PGD: gradient steps that choose their own length, with momentum and restarts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import product

import torch
from torch import Tensor

from attacks.access import at
from attacks.ball import Ball, Norm, steepest
from attacks.gradient import OnFinding, refuse
from attacks.minimum import GradientHealth, each
from attacks.objective import CrossEntropy, Model, Objective, reached
from attacks.spec import Scene

ALPHA = 0.75
"""Weight of the new step against the last one, α."""
RHO = 0.75
"""Share of steps between two checkpoints that must raise the loss, ρ."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits ``[M, K]`` and the places of their images in the batch, ``int64[M]``, to ``[M]``: what is
ascended. An image's loss may depend on its place, as with a target class of its own."""


def loss_on(objective: Objective, labels: Tensor) -> Loss:
    """``objective`` for a batch of ``labels``, ``int64[N]`` or ``bool[N, L]``."""
    return lambda logits, rows: objective(logits, labels[rows])


def loss_of_some(loss: Loss, kept: Tensor) -> Loss:
    """``loss`` for the batch that is left of ``kept``, ``int64[M]``."""
    return lambda logits, rows: loss(logits, kept[rows])


def apgd(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    steps: int,
    seeds: Sequence[int],
    norm: Norm = Norm.LINF,
    restarts: int = 1,
    targeted: bool = False,
    losses: Sequence[Loss] | None = None,
    until_fooled: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """Algorithm 1 of Croce and Hein (2020), arXiv 2003.01690, section 3.

    ``steps + 1`` forward and ``steps`` backward passes a start. The forward pass that gives the
    gradient also judges the iterate.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        epsilon: budget in grey levels, in ``norm`` (L-inf or L2).
        seeds: one non-negative integer an image.
        restarts: starting points for each loss.
        losses: what to ascend, one after the other; by default the cross-entropy. Each loss and
            each start runs only on images that nothing before it has fooled.
        until_fooled: an image leaves with its first iterate that fools the model. Otherwise every
            start runs to its end, and the image keeps the fooling iterate of highest loss.
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]`` within ε of ``pixels`` and in ``[0, 255]``. An image that
    withstands everything keeps its iterate of highest loss.
    """
    scene = Scene(model, pixels, labels, seeds, on_finding)
    tried = losses or (loss_on(CrossEntropy(targeted), labels),)
    best = _Found.nothing(pixels)
    for number, (_, loss) in enumerate(product(range(restarts), tried)):
        rows = (~best.fooled).nonzero()[:, 0]
        if len(rows) == 0:
            break
        part = scene.rows(rows)
        climbed = _climb(
            part,
            Ball.around(part.pixels, epsilon, norm).random(part.seeds, number),
            loss_of_some(loss, rows),
            epsilon=epsilon,
            steps=steps,
            norm=norm,
            targeted=targeted,
            until_fooled=until_fooled,
        )
        best.offer(rows, climbed.pixels, climbed.value, climbed.fooled)
    return best.pixels


@dataclass(slots=True)
class _Found:
    """The strongest iterate of each image so far: one that fools before one that does not, then
    the one of higher loss."""

    pixels: Tensor
    value: Tensor
    fooled: Tensor

    @classmethod
    def nothing(cls, pixels: Tensor) -> _Found:
        return cls(
            pixels.detach().clone(),
            torch.full((len(pixels),), -torch.inf, device=pixels.device),
            torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device),
        )

    def offer(self, rows: Tensor, pixels: Tensor, value: Tensor, fooled: Tensor) -> None:
        """Candidates for the images at ``rows``, ``int64[M]``."""
        value = value.to(self.value)
        had = self.fooled[rows]
        better = (fooled & ~had) | ((fooled == had) & (value > self.value[rows]))
        places = rows[better]
        self.pixels[places] = pixels[better]
        self.value[places] = value[better]
        self.fooled[places] = fooled[better]


@dataclass(slots=True)
class _Climbers:
    """The images still climbing, M of them; every field has one entry an image."""

    rows: Tensor
    """Their places in the batch, ``int64[M]``."""
    x: Tensor
    x_before: Tensor
    """``x^(k)`` and ``x^(k-1)``, ``float32[M, H, W, C]``."""
    gradient: Tensor
    f: Tensor
    """``∇f(x^(k))`` and ``f(x^(k))``."""
    x_max: Tensor
    gradient_max: Tensor
    f_max: Tensor
    eta: Tensor
    """Step length η in grey levels, ``float32[M]``."""
    rises: Tensor
    """Steps since the last checkpoint that raised f, ``int64[M]``."""
    f_max_before: Tensor
    """``f_max`` at the last checkpoint."""
    halved: Tensor
    """Whether the last checkpoint halved η, ``bool[M]``."""

    @classmethod
    def at_start(cls, x: Tensor, gradient: Tensor, f: Tensor, eta: float) -> _Climbers:
        rows = torch.arange(len(x), device=x.device)
        return cls(
            rows=rows,
            x=x,
            x_before=x,
            gradient=gradient,
            f=f,
            x_max=x,
            gradient_max=gradient,
            f_max=f,
            eta=torch.full((len(x),), eta, dtype=x.dtype, device=x.device),
            rises=torch.zeros_like(rows),
            f_max_before=f,
            halved=torch.zeros_like(rows, dtype=torch.bool),
        )

    def only(self, kept: Tensor) -> _Climbers:
        """Those at ``kept``, ``bool[M]``."""
        return _Climbers(**{field.name: getattr(self, field.name)[kept] for field in fields(self)})

    def next_point(self, ball: Ball, alpha: float) -> Tensor:
        """Lines 7 and 8: a projected step, then momentum."""
        ahead = steepest(self.gradient, ball.norm) * each(self.eta)
        z = ball.project(self.x + ahead)
        return ball.project(self.x + alpha * (z - self.x) + (1 - alpha) * (self.x - self.x_before))

    def arrive(self, x: Tensor, gradient: Tensor, f: Tensor) -> None:
        """Lines 9 to 11: x is the new iterate."""
        self.rises = self.rises + (f > self.f)
        higher = f > self.f_max
        self.x_before, self.x, self.gradient, self.f = self.x, x, gradient, f
        self.x_max = torch.where(each(higher), x, self.x_max)
        self.gradient_max = torch.where(each(higher), gradient, self.gradient_max)
        self.f_max = torch.where(higher, f, self.f_max)

    def check(self, steps: int) -> None:
        """Lines 12 to 16, ``steps`` after the last checkpoint: halve η where the loss rose too
        seldom (condition 1) or neither η nor ``f_max`` has changed (condition 2), and go on from
        the best point."""
        seldom = self.rises < RHO * steps
        idle = ~self.halved & (self.f_max == self.f_max_before)
        self.halved = seldom | idle
        self.eta = torch.where(self.halved, self.eta / 2, self.eta)
        self.x = torch.where(each(self.halved), self.x_max, self.x)
        self.gradient = torch.where(each(self.halved), self.gradient_max, self.gradient)
        self.f = torch.where(self.halved, self.f_max, self.f)
        self.f_max_before = self.f_max
        self.rises = torch.zeros_like(self.rises)


def checkpoints(steps: int) -> dict[int, int]:
    """Checkpoints ``w_j = ceil(p_j * steps)`` of section 3.1, each with the steps since the one
    before: ``p_0 = 0``, ``p_1 = 0.22``, ``p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06)``."""
    # in whole hundredths: 0.22 + 0.19 + 0.16 is not 0.57 in floating point
    before, p, since, spans = 0, 22, 0, {}
    while p < 100:
        w = -(-p * steps // 100)
        if w > since:
            spans[w] = w - since
        before, p, since = p, p + max(p - before - 3, 6), w
    return spans


def _climb(
    scene: Scene,
    start: Tensor,
    loss: Loss,
    *,
    epsilon: float,
    steps: int,
    norm: Norm,
    targeted: bool,
    until_fooled: bool,
) -> _Found:
    """One loss from one start."""
    found = _Found.nothing(start)
    health = GradientHealth(start)

    def look(x: Tensor, rows: Tensor, last: bool) -> tuple[Tensor, Tensor] | None:
        """Gradient and value at x, ``[M, H, W, C]`` and ``[M]``; None without a gradient."""
        with torch.set_grad_enabled(not last):
            x = x.detach().requires_grad_(not last)
            logits = at(scene.model, rows)(x)
            f = loss(logits, rows)
        fooled = reached(logits.detach(), scene.labels[rows], targeted=targeted)
        # a loss that is no number must neither win nor block later ones that are
        value = f.detach().nan_to_num(nan=-torch.inf, posinf=-torch.inf)
        found.offer(rows, x.detach(), value, fooled)
        if last:
            return torch.zeros_like(x), value
        if not health.connected(f):
            return None
        (gradient,) = torch.autograd.grad(f.sum(), x)
        return health.mended(gradient, rows, ~fooled), value

    everyone = torch.arange(len(start), device=start.device)
    seen = look(start, everyone, last=steps == 0)
    if seen is None:
        health.report(scene.on_finding)
        return found
    climbers = _Climbers.at_start(start, *seen, eta=2 * epsilon)
    ball = Ball.around(scene.pixels, epsilon, norm)
    spans = checkpoints(steps)
    for number in range(1, steps + 1):
        if until_fooled and found.fooled[climbers.rows].any():
            climbers = climbers.only(~found.fooled[climbers.rows])
            ball = Ball.around(scene.pixels[climbers.rows], epsilon, norm)
        if len(climbers.rows) == 0:
            break
        x = climbers.next_point(ball, ALPHA if number > 1 else 1.0)
        seen = look(x, climbers.rows, last=number == steps)
        if seen is None:
            break
        climbers.arrive(x, *seen)
        if number in spans:
            climbers.check(spans[number])
    health.report(scene.on_finding)
    return found
