"""What the attacks on a guard share: signed steps, judged as the file that would be sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.ball import Ball
from attacks.gradient import Ailment, GradientFinding
from attacks.guarded import FUSED, GuardedModel, Reading
from attacks.objective import gaps, reached
from attacks.problem import AttackProblem
from attacks.spec import Attacker, Scene

Direction = Callable[[Reading, Tensor, int], Tensor]
"""A reading, the pixels ``[N, H, W, C]`` that it was taken of, which require a gradient, and the
step's number to what the step follows the sign of, of the same shape as the pixels."""


@dataclass
class Best:
    """The best image so far of each of N: wanted and accepted before wanted before neither; among
    the first two the least suspicious, among the last the nearest to the wanted answer."""

    pixels: Tensor
    rank: Tensor
    """``int64[N]``: 2 wanted and accepted, 1 wanted, 0 neither, -1 not yet judged."""
    value: Tensor

    @classmethod
    def of(cls, pixels: Tensor) -> Best:
        """Nothing is judged yet: any candidate is better than ``pixels``."""
        rows = len(pixels)
        rank = torch.full((rows,), -1, device=pixels.device)
        return cls(pixels.clone(), rank, pixels.new_full((rows,), -math.inf))

    def offer(self, pixels: Tensor, rank: Tensor, value: Tensor) -> None:
        """Keep each candidate that is better; higher ``value`` is."""
        better = (rank > self.rank) | ((rank == self.rank) & (value > self.value))
        self.pixels[better] = pixels[better]
        self.rank[better], self.value[better] = rank[better], value[better]

    def update(self, rows: Tensor, other: Best) -> None:
        """Offer another search's best of the images at ``rows``."""
        mine = Best(self.pixels[rows], self.rank[rows], self.value[rows])
        mine.offer(other.pixels, other.rank, other.value)
        self.pixels[rows], self.rank[rows], self.value[rows] = mine.pixels, mine.rank, mine.value


def search(
    scene: Scene,
    direction: Callable[[Scene, Tensor], Direction],
    *,
    epsilon: float,
    step: float,
    steps: int,
    targeted: bool,
    restarts: int = 1,
    route: str = FUSED,
) -> Tensor:
    """``x <- project(x + step * sign(direction))`` from a random point of the L-inf ball, the best
    iterate kept; again from other points for images that were not wanted and accepted.

    A file holds whole grey levels. From an epsilon of 1 the guard therefore reads x rounded, which
    is what would be delivered, and the gradient there moves x: rounding counts as the identity
    backwards. Each iterate is judged by the pass that gives its gradient.

    Args:
        scene: with a guard.
        direction: from the images' scene and their places in this one, ``int64[M]``, to what they
            follow.
        route: what an image must pass to count as accepted; see ``GuardedModel.excess``.

    Returns ``float32[N, H, W, C]`` within ε, whole grey levels if ε is at least 1.
    """
    everyone = torch.arange(len(scene.pixels), device=scene.pixels.device)
    best, rows = Best.of(scene.pixels), everyone
    for restart in range(restarts):
        part = scene.rows(rows)
        found = _climb(
            part,
            direction(part, rows),
            Ball.around(part.pixels, epsilon),
            restart,
            step=step,
            steps=steps,
            targeted=targeted,
            route=route,
        )
        best.update(rows, found)
        rows = everyone[best.rank < 2]
        if len(rows) == 0:
            break
    return best.pixels


def _climb(
    scene: Scene,
    direction: Direction,
    ball: Ball,
    restart: int,
    *,
    step: float,
    steps: int,
    targeted: bool,
    route: str,
) -> Best:
    guard = guard_of(scene)
    best = Best.of(scene.pixels)
    x = ball.random(scene.seeds, restart)
    unguided = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    not_finite = torch.zeros_like(unguided)

    def judge(delivered: Tensor, reading: Reading) -> Tensor:
        excess = guard.excess(reading, route)
        wanted = reached(reading.logits, scene.labels, targeted=targeted)
        accepted = guard.accepted(reading) if route == FUSED else excess < 0
        nearest = gaps(reading.logits, scene.labels, targeted=targeted).amin(dim=1)
        rank = torch.where(wanted, 1 + accepted.long(), 0)
        value = torch.where(wanted, -excess, -nearest)
        best.offer(delivered, rank, value.nan_to_num(-torch.inf, torch.inf, -torch.inf))
        return rank

    for number in range(steps):
        delivered = whole(x, ball).requires_grad_()
        reading = guard.readings(delivered, scene.model)
        gradient = direction(reading, delivered, number)
        with torch.no_grad():
            rank = judge(delivered.detach(), reading)
            finite = gradient.isfinite().flatten(1).all(dim=1)
            still = (gradient == 0).flatten(1).all(dim=1)
            not_finite |= ~finite
            unguided |= still & (rank == 0)
            x = ball.project(x + step * gradient.masked_fill(~finite.view(-1, 1, 1, 1), 0).sign())
    with torch.no_grad():
        delivered = whole(x, ball)
        judge(delivered, guard.readings(delivered, scene.model))
    for ailment, rows in ((Ailment.NOT_FINITE, not_finite), (Ailment.ZERO, unguided)):
        if rows.any():
            scene.on_finding(GradientFinding(ailment, tuple(rows.nonzero()[:, 0].tolist())))
    return best


def whole(pixels: Tensor, ball: Ball) -> Tensor:
    """The file's pixels: rounded to the nearest whole grey level that ε allows, as delivery does
    it. Below one grey level the source is the only file in reach; there, ``pixels`` as they are.
    """
    if ball.epsilon < 1:
        return pixels.detach().clone()
    reach = math.floor(ball.epsilon)
    rounded = pixels.detach().round()
    return rounded.clamp(ball.source - reach, ball.source + reach).clamp(0, 255)


def follow(value: Tensor, pixels: Tensor, *, again: bool = False) -> Tensor:
    """Gradient of ``value: [N]`` with respect to the pixels; zero where it does not depend on them.

    Args:
        again: keep the graph for another.
    """
    (gradient,) = torch.autograd.grad(value.sum(), pixels, retain_graph=again)
    return gradient


def goals(logits: Tensor, labels: Tensor, *, targeted: bool) -> Tensor:
    """Labels to reach: the targets, or for an untargeted attack the answer that costs least now,
    the runner-up class or the findings with the least certain one turned."""
    if targeted:
        return labels
    nearest = gaps(logits, labels).argmin(dim=1)
    if labels.ndim == 2:
        turned = torch.zeros_like(labels).scatter_(1, nearest[:, None], True)
        return labels ^ turned
    return nearest + (nearest >= labels).long()


def kinds(labels: Tensor) -> Tensor:
    """``int64[N]``: the class whose benign features count as typical; of findings, the first that
    is present, as the guard's cells have it at equal probabilities."""
    return labels.to(torch.int64).argmax(dim=1) if labels.ndim == 2 else labels


def guard_of(scene: Scene | Attacker) -> GuardedModel:
    """The guard that the attacker holds."""
    if scene.guard is None:
        raise AttackProblem("this attack needs a guard; give the bundle's folder")
    return scene.guard


def levels(reading: Reading) -> tuple[Tensor, ...]:
    """``float32[N, d_l]`` each: all that a guard's detectors look at, the taps in network order
    and, where there is a squeezed view, that view's logits. An attack that hides its features at
    every depth but not there is caught by the two views' disagreement."""
    squeezed = reading.squeezed_logits
    return (*reading.taps, squeezed) if squeezed.shape[1] else reading.taps


def benign_levels(
    guard: GuardedModel, pixels: Iterable[Tensor], labels: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """``levels`` of the attacker's own images, those that the model diagnoses rightly, and their
    classes ``int64[M]``. Images may differ in size, so each is read alone."""
    with torch.no_grad():
        readings = [guard.readings(image[None]) for image in pixels]
    right = torch.cat(
        [
            reached(reading.logits, label[None], targeted=True)
            for reading, label in zip(readings, labels, strict=True)
        ]
    )
    if not right.any():
        raise AttackProblem(
            "the model diagnoses none of the attacker's images rightly; give others"
        )
    joined = zip(*(levels(reading) for reading in readings), strict=True)
    return tuple(torch.cat(level)[right] for level in joined), kinds(labels)[right]
