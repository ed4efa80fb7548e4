"""Saliency-map attack: a few pixels, each moved as far as it goes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacks.access import at
from attacks.ball import WHITE, Norm
from attacks.gradient import OnFinding, refuse
from attacks.minimum import Closest, GradientHealth
from attacks.objective import Model, gaps, reached
from attacks.spec import AttackSpec, Kind, Scene

Direction = Literal["up", "down", "both"]

_SHARE = 0.1  # of the pixels, the paper's largest distortion in later libraries (gamma)


def jsma(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    theta: float = WHITE,
    direction: Direction = "both",
    at_once: Literal[1, 2] = 2,
    shortlist: int = 64,
    epsilon: float | None = None,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """Move the pixels of largest saliency ``α |β|`` by θ until the answer changes, where α > 0 is
    how much the move raises the logit of the target and β < 0 how much it raises all the others.

    Untargeted, the target of each step is the class nearest to winning. With two classes, and for
    findings, -α and β are both the nearest gap: of the two logits of a sigmoid head one never
    moves. α and β are of the move itself, derivative times distance: the paper's images are black
    and white, where every pixel has the same way to go; most medical ones are grey.

    Pairs are sought among the ``shortlist`` moves of largest α and that of smallest β, not among
    all, whose number grows with the fourth power of an image's side. A pixel moves once.

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
        derivatives = _derivatives(logits, x, labels[rows], targeted, health)
        if derivatives is None:
            break
        rise, others = (health.mended(part, rows, ~turned) for part in derivatives)
        with torch.no_grad():
            x = x.detach()
            count = min(at_once, budget - spent)
            moves = torch.stack([(x + theta).clamp_(max=WHITE), (x - theta).clamp_(min=0)], 1)
            chosen, found = _salient(
                _effect(rise, moves, x),
                _effect(others, moves, x),
                free,
                direction,
                count,
                shortlist,
            )
            kept = ~turned & found
            taken = torch.zeros((len(rows), 2 * area), dtype=torch.bool, device=x.device)
            taken.scatter_(1, chosen, True)
            up, down = taken.view(len(rows), 2, *x.shape[1:3], 1).unbind(1)
            x = torch.where(up, moves[:, 0], torch.where(down, moves[:, 1], x))[kept]
            free = (free & ~taken.view(len(rows), 2, area).any(dim=1))[kept]
            rows = rows[kept]
            spent += count
    health.report(on_finding)
    return closest.within(None, Norm.L0)


def _derivatives(
    logits: Tensor, x: Tensor, labels: Tensor, targeted: bool, health: GradientHealth
) -> tuple[Tensor, Tensor] | None:
    """``[n, H, W, C]`` each: the derivatives of the target's logit and of the others' sum."""
    if labels.ndim == 2 or logits.shape[1] == 2:
        nearest = gaps(logits, labels, targeted=targeted).amin(dim=1)
        if not health.connected(nearest):
            return None
        (others,) = torch.autograd.grad(nearest.sum(), x)
        return -others, others
    target = labels
    if not targeted:
        place = gaps(logits, labels).argmin(dim=1)
        target = place + (place >= labels)  # gaps leave out the label's own column
    toward = logits.gather(1, target[:, None])[:, 0]
    if not health.connected(toward):
        return None
    (rise,) = torch.autograd.grad(toward.sum(), x, retain_graph=True)
    (everything,) = torch.autograd.grad(logits.sum(), x)
    return rise, everything - rise


def _effect(derivative: Tensor, moves: Tensor, x: Tensor) -> Tensor:
    """``[n, 2 H W]``: what brightening each pixel changes to first order, then what darkening."""
    change = derivative[:, None] * (moves - x[:, None])
    return change.sum(dim=4).flatten(1)


def _salient(
    alpha: Tensor, beta: Tensor, free: Tensor, direction: Direction, count: int, shortlist: int
) -> tuple[Tensor, Tensor]:
    """The ``count`` moves of largest saliency, ``int64[n, count]``, and ``bool[n]``: whether there
    is one at all (equation 8; for pairs, algorithm 3)."""
    area = free.shape[1]
    allowed = torch.cat([free & (direction != "down"), free & (direction != "up")], dim=1)
    allowed &= (alpha != 0) | (beta != 0)
    if count == 1:
        saliency = torch.where(allowed & (alpha > 0) & (beta < 0), -alpha * beta, 0)
        best = saliency.max(dim=1, keepdim=True)
        return best.indices, best.values[:, 0] > 0
    size = min(shortlist, area)
    listed = torch.cat(
        [
            torch.where(allowed, alpha, -torch.inf).topk(size, dim=1).indices,
            torch.where(allowed, -beta, -torch.inf).topk(size, dim=1).indices,
        ],
        dim=1,
    )
    a, b, usable, pixel = (
        alpha.gather(1, listed),
        beta.gather(1, listed),
        allowed.gather(1, listed),
        listed % area,
    )
    a, b = a[:, :, None] + a[:, None], b[:, :, None] + b[:, None]
    valid = usable[:, :, None] & usable[:, None] & (pixel[:, :, None] != pixel[:, None])
    saliency = torch.where(valid & (a > 0) & (b < 0), -a * b, 0).flatten(1)
    best = saliency.max(dim=1)
    pair = torch.stack([best.indices // (2 * size), best.indices % (2 * size)], dim=1)
    return listed.gather(1, pair), best.values > 0


class JSMA(AttackSpec):
    """Spec of ``jsma``."""

    citation: ClassVar = "Papernot et al. 2016, arXiv 1511.07528, algorithms 2 and 3"
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
    at_once: Literal[1, 2] = 2
    """Pixels moved in a step."""
    shortlist: Annotated[int, Field(ge=2, le=1000)] = 64
    """Moves among which pairs are sought, twice."""

    def attack(self, scene: Scene) -> Tensor:
        return jsma(
            scene.model,
            scene.pixels,
            scene.labels,
            theta=self.theta,
            direction=self.direction,
            at_once=self.at_once,
            shortlist=self.shortlist,
            epsilon=self.epsilon,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
