"""Saliency-map attack: a few pixels, each moved as far as it goes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacks.access import at
from attacks.ball import WHITE, Norm, size
from attacks.gradient import OnFinding, refuse
from attacks.minimum import Closest, GradientHealth
from attacks.objective import Model, gaps, reached
from attacks.spec import AttackSpec, Count, Kind, Scene

Direction = Literal["up", "down", "both"]

_SHARE = 0.1  # of the pixels, the paper's largest distortion in later libraries (gamma)


def jsma(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    theta: float = WHITE,
    direction: Direction = "both",
    at_once: int = 2,
    epsilon: float | None = None,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """Move the pixels of largest saliency ``α |β|`` by θ until the answer changes, where α > 0 is
    how much the move raises the target and β < 0 how much it raises all the other classes.

    Both are taken of the softmax, as the paper defines it, where β = -α (what one class wins, the
    others lose) and the best pair is the two best pixels. Of logits, whose sum means nothing,
    libraries find pixels that lower the others on average and never reach a target among many.
    What is differentiated is the target's log-odds, which rank as its probability does and do not
    saturate; untargeted, and for findings, the nearest gap. A pixel moves once. At last
    those that have become needless go back.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        theta: θ in grey levels; all channels of a pixel move together.
        direction: whether pixels may get brighter, darker, or either.
        at_once: pixels moved in a step; 2 as in the paper.
        epsilon: most pixels that may change; None is a tenth of them.
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]``: the source where no image was found.
    """
    area = pixels.shape[1] * pixels.shape[2]
    budget = max(1, int(_SHARE * area)) if epsilon is None else min(int(epsilon), area)
    closest, health = Closest.to(pixels), GradientHealth(pixels)
    rows = torch.arange(len(pixels), device=pixels.device)
    x = pixels.clone()
    free = torch.ones((len(pixels), area), dtype=torch.bool, device=pixels.device)
    spent = 0
    while len(rows):
        x = x.detach().requires_grad_()
        logits = at(model, rows)(x)
        with torch.no_grad():
            turned = reached(logits, labels[rows], targeted=targeted)
        changed = torch.full_like(closest.length[rows], spent)
        closest.offer(rows, x.detach(), turned, changed)
        if spent >= budget:
            break
        standing = _standing(logits, labels[rows], targeted)
        if not health.connected(standing):
            break
        (gradient,) = torch.autograd.grad(standing.sum(), x)
        gradient = health.mended(gradient, rows, ~turned)
        with torch.no_grad():
            x = x.detach()
            count = min(at_once, budget - spent)
            moves = torch.stack([(x + theta).clamp_(max=WHITE), (x - theta).clamp_(min=0)], dim=1)
            # by derivative, not by derivative times distance: the long way of a dark pixel to white
            # is worth less than its first step promises
            alpha = (gradient[:, None] * (moves - x[:, None]).sign()).sum(dim=4).flatten(2)
            if direction != "both":
                alpha[:, int(direction == "up")] = -torch.inf
            best, way = alpha.max(dim=1)
            values, chosen = best.masked_fill_(~free, -torch.inf).topk(count, dim=1)
            kept = ~turned & (values[:, 0] > 0)
            # of a pair, one pixel may still be worth its move when the other is not
            taken = torch.zeros_like(free).scatter_(1, chosen, values > 0)
            shape = (len(rows), *x.shape[1:3], 1)
            moved = torch.where(way.view(shape) == 1, moves[:, 1], moves[:, 0])
            x = torch.where(taken.view(shape), moved, x)[kept]
            free, rows = (free & ~taken)[kept], rows[kept]
            spent += count
    health.report(on_finding)
    _give_back(model, labels, closest, targeted)
    return closest.within(None, Norm.L0)


def _give_back(model: Model, labels: Tensor, closest: Closest, targeted: bool) -> None:
    """Return the pixels that early steps moved and later ones made needless: as many of those
    worth least, to first order at the image found, as it can do without (bisection)."""
    rows = (closest.length.isfinite() & (closest.length > 1)).nonzero()[:, 0]
    if len(rows) == 0:
        return
    view, goal, source = at(model, rows), labels[rows], closest.source[rows]
    x = closest.image[rows].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(_standing(view(x), goal, targeted).sum(), x)
    with torch.no_grad():
        x = x.detach()
        change = x - source
        worth = (gradient * change).sum(dim=3).flatten(1)
        changed = (change != 0).any(dim=3).flatten(1)
        rank = worth.masked_fill(~changed, torch.inf).argsort(dim=1).argsort(dim=1)
        fewest, most = torch.zeros(len(rows), device=x.device), closest.length[rows]
        while len(undecided := (most - fewest > 1).nonzero()[:, 0]):
            back = ((fewest + most) / 2).floor()[undecided]
            kept = rank[undecided] >= back[:, None]
            fewer = torch.where(kept.view(-1, *x.shape[1:3], 1), x[undecided], source[undecided])
            turned = reached(at(view, undecided)(fewer), goal[undecided], targeted=targeted)
            closest.offer(rows[undecided], fewer, turned, size(fewer - source[undecided], Norm.L0))
            fewest[undecided] = torch.where(turned, back, fewest[undecided])
            most[undecided] = torch.where(turned, most[undecided], back)


def _standing(logits: Tensor, labels: Tensor, targeted: bool) -> Tensor:
    """``[n]``: the target's log-odds, or how far the image is across its nearest gap."""
    if labels.ndim == 2 or not targeted:
        return -gaps(logits, labels, targeted=targeted).amin(dim=1)
    own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], True)
    rest = logits.masked_fill(own, -torch.inf).logsumexp(dim=1)
    return logits.gather(1, labels[:, None])[:, 0] - rest


class JSMA(AttackSpec):
    """Spec of ``jsma``."""

    citation: ClassVar = "Papernot et al. 2016, arXiv 1511.07528, algorithm 3"
    kind: ClassVar = Kind.MINIMUM
    smoke: ClassVar = {"epsilon": 24}

    method: Literal["jsma"] = "jsma"
    norm: Literal[Norm.L0] = Norm.L0
    theta: Annotated[float, Field(gt=0, le=WHITE, json_schema_extra={"unit": "grey levels"})] = (
        WHITE
    )
    """θ: how far a pixel moves, short of black and white."""
    direction: Direction = "both"
    """Whether pixels may get brighter, darker, or either."""
    at_once: Count = 2
    """Pixels moved in a step."""

    def attack(self, scene: Scene) -> Tensor:
        return jsma(
            scene.model,
            scene.pixels,
            scene.labels,
            theta=self.theta,
            direction=self.direction,
            at_once=self.at_once,
            epsilon=self.epsilon,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
