"""Fast adaptive boundary attack: projections onto the linearised boundary, drawn to the source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from attacks.access import at
from attacks.ball import WHITE, Norm, size
from attacks.gradient import OnFinding, refuse
from attacks.minimum import DUAL, Closest, GradientHealth, each, nearest_boundary
from attacks.objective import Model, gaps, reached
from attacks.spec import AttackSpec, Count, Fraction, Kind, Scene, Steps

_FIRST_RADIUS = {Norm.LINF: 0.3 * WHITE, Norm.L2: 1.0 * WHITE, Norm.L1: 5.0 * WHITE}
"""How far a restart looks for an image that nothing has turned yet, in the authors' code."""
_FINAL_STEPS = 3
_ACROSS = 1e-4
"""Share of the change by which the last search stays beyond the boundary: on the boundary itself
the answer depends on the batch's size."""
_NUDGE = 1e-4
"""Grey levels a component by which to pass the plane: float32 loses smaller steps at white."""


def fab(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    seeds: Sequence[int],
    norm: Norm = Norm.LINF,
    steps: int = 100,
    restarts: int = 1,
    candidates: int = 10,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    epsilon: float | None = None,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """``x <- clip((1 - a) (x + η d) + a (source + η d_source))``, where d and d_source lead onto
    the nearest linearised boundary within the grey range; once across, ``x <- (1 - β) source +
    β x``. At last, a search on the segment from the source to the best image.

    The boundary is linearised where x was judged, before a step back, not after it: one forward
    pass a step instead of two, for nearly the same hyperplane. Not so for L1, whose change sits on
    the few steepest components and follows their order: there a step back is a step of its own,
    and the next one linearises where it led.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        seeds: one non-negative integer an image.
        norm: L-inf, L2 or L1.
        steps: for each restart.
        restarts: starting points, the first of them the source; each image keeps its best.
        candidates: how many of the smallest gaps have their distance computed in each step.
        alpha_max: the largest share a of the path from the source.
        eta: η, how far beyond the hyperplane to step.
        beta: β, how much of the change a step back keeps.
        epsilon: farthest distance in ``norm``, in grey levels, that counts as success.
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]``: the source where no image was found.
    """
    closest, health = Closest.to(pixels), GradientHealth(pixels)
    rows = torch.arange(len(pixels), device=pixels.device)
    with torch.no_grad():
        logits = model(pixels)
        there = reached(logits, labels, targeted=targeted)
    closest.offer(rows, pixels, there, torch.zeros_like(closest.length))
    rows = rows[~there]
    source, goal, view = pixels[rows], labels[rows], at(model, rows)
    own_seeds = [seeds[row] for row in rows.tolist()]
    nudge = _NUDGE * (pixels[0].numel() ** 0.5 if norm is Norm.L2 and len(pixels) else 1)
    for restart in range(restarts if len(rows) else 0):
        x = source
        if restart:
            radius = closest.length[rows].clamp(max=_FIRST_RADIUS[norm])
            if epsilon is not None:
                radius = radius.clamp(max=epsilon)
            x = _random_start(source, radius, norm, own_seeds, restart)
        for _ in range(steps):
            boundary = nearest_boundary(
                view,
                x,
                goal,
                rows,
                health,
                norm=norm,
                candidates=candidates,
                targeted=targeted,
            )
            if boundary is None:
                health.report(on_finding)
                return pixels.clone()
            change = x - source
            closest.offer(rows, x, boundary.turned, size(change, norm))
            back = torch.where(each(boundary.turned), source + beta * change, x)
            normal = boundary.normal
            gap = boundary.gap + nudge * size(normal, DUAL[norm])
            onto = to_plane(back, normal, gap + _inner(normal, back - x), norm)
            onto_source = to_plane(source, normal, gap - _inner(normal, change), norm)
            near = size(onto, norm).clamp(min=1e-8)
            far = size(onto_source, norm).clamp(min=1e-8)
            a = (near / (near + far)).clamp(max=alpha_max)
            if targeted:
                # a target lies across several boundaries: drawn to the source, whose projection
                # crosses one of them, an image may never get across them all
                a = torch.where(closest.length[rows].isfinite(), a, 0)
            a = each(a)
            x = ((1 - a) * (back + eta * onto) + a * (source + eta * onto_source)).clamp_(0, WHITE)
            if norm is Norm.L1:
                x = torch.where(each(boundary.turned), back, x)
        with torch.no_grad():
            turned = reached(view(x), goal, targeted=targeted)
        closest.offer(rows, x, turned, size(x - source, norm))
    _search_segment(model, labels, closest, logits, norm, targeted)
    health.report(on_finding)
    return closest.within(epsilon, norm)


def to_plane(point: Tensor, normal: Tensor, gap: Tensor, norm: Norm) -> Tensor:
    """``[n, H, W, C]``: the d of least ``norm`` with ``gap + <normal, d> = 0`` for which
    ``point + d`` stays in the grey range; where there is none, the d that comes closest.

    Every component may only help, by at most its room to black or white. For L-inf and L2 all grow
    together, as ``λ`` or ``λ |normal|``, until each is held by its room; λ follows from sorting
    the points at which they are held. For L1 the components of steepest normal are used up first.

    Args:
        gap: ``[n]``, of the linear function at ``point``.
    """
    # sums over 10^5 components that must hit the plane
    slope = normal.flatten(1).double()
    need = gap.double().abs()[:, None]
    sign = -(slope.sign() * gap.double().sign()[:, None])
    steep = slope.abs()
    flat = point.flatten(1).double()
    room = torch.where(sign > 0, WHITE - flat, flat) * (sign != 0)
    if norm is Norm.L1:
        order = steep.argsort(dim=1, descending=True, stable=True)
        steep, room = steep.gather(1, order), room.gather(1, order)
        gain = steep * room
        left = need - (gain.cumsum(1) - gain)
        used = torch.minimum((left / steep.clamp(min=1e-30)).clamp(min=0), room)
        length = torch.empty_like(used).scatter_(1, order, used)
    else:
        speed = torch.ones_like(steep) if norm is Norm.LINF else steep
        held_at = torch.where(steep > 0, room / speed.clamp(min=1e-30), 0)
        order = held_at.argsort(dim=1)
        held = (steep * room).gather(1, order).cumsum(1)
        moving = (steep * speed).gather(1, order).flip(1).cumsum(1).flip(1)
        # with the first k components held, and λ at which the next one would be
        before = torch.cat([torch.zeros_like(need), held[:, :-1]], dim=1)
        reach = before + moving * held_at.gather(1, order)
        k = (reach < need).sum(dim=1, keepdim=True).clamp(max=reach.shape[1] - 1)
        growth = (need - before.gather(1, k)) / moving.gather(1, k).clamp(min=1e-30)
        length = torch.minimum(growth * speed, room)
    return (sign * length).to(point.dtype).view_as(point)


def _inner(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).flatten(1).sum(dim=1)


def _random_start(
    source: Tensor, radius: Tensor, norm: Norm, seeds: Sequence[int], stream: int
) -> Tensor:
    """At half the ``radius`` ``[n]`` from the source, in a direction of the image's own seed."""
    noise = np.stack(
        [
            np.random.default_rng((seed, stream)).standard_normal(source.shape[1:], np.float32)
            for seed in seeds
        ]
    )
    direction = torch.from_numpy(noise).to(source)
    length = size(direction, norm).clamp(min=1e-12)
    return (source + each(radius / 2 / length) * direction).clamp_(0, WHITE)


def _search_segment(
    model: Model, labels: Tensor, closest: Closest, logits: Tensor, norm: Norm, targeted: bool
) -> None:
    """Secant steps on the nearest gap between the source, whose ``logits`` are known, and the best
    image (section 3.4 of the paper)."""
    rows = (closest.length.isfinite() & (closest.length > 0)).nonzero()[:, 0]
    if len(rows) == 0:
        return
    source, goal, view = closest.source[rows], labels[rows], at(model, rows)
    change = closest.image[rows] - source

    def gap(values: Tensor) -> Tensor:
        return gaps(values, goal, targeted=targeted).amin(dim=1)

    with torch.no_grad():
        low_gap, high_gap = gap(logits[rows]), gap(view(source + change))
        low, high = torch.zeros_like(low_gap), torch.ones_like(high_gap)
        for _ in range(_FINAL_STEPS):
            crossing = low_gap / (low_gap - high_gap).clamp(min=1e-12)
            share = (low + crossing.clamp(0, 1) * (high - low) + _ACROSS).clamp(max=1)
            x = source + each(share.to(change.dtype)) * change
            values = view(x)
            turned, value = reached(values, goal, targeted=targeted), gap(values)
            closest.offer(rows, x, turned, size(x - source, norm))
            high, high_gap = torch.where(turned, share, high), torch.where(turned, value, high_gap)
            low, low_gap = torch.where(turned, low, share), torch.where(turned, low_gap, value)


class FAB(AttackSpec):
    """Spec of ``fab``."""

    citation: ClassVar = "Croce and Hein 2020, arXiv 1907.02044, algorithm 1"
    kind: ClassVar = Kind.MINIMUM
    smoke: ClassVar = {"steps": 8}

    method: Literal["fab"] = "fab"
    norm: Literal[Norm.LINF, Norm.L2, Norm.L1] = Norm.LINF
    steps: Steps = 100
    """For each restart."""
    restarts: Count = 1
    candidates: Count = 10
    """How many of the nearest classes or findings are considered in a step, a backward pass
    each."""
    alpha_max: Fraction = 0.1
    """The largest share of the path that starts from the source."""
    eta: Annotated[float, Field(ge=1, le=2)] = 1.05
    """η: how far beyond the hyperplane a step goes."""
    beta: Fraction = 0.9
    """β: how much of the change is kept by a step back."""

    def attack(self, scene: Scene) -> Tensor:
        return fab(
            scene.model,
            scene.pixels,
            scene.labels,
            seeds=scene.seeds,
            norm=self.norm,
            steps=self.steps,
            restarts=self.restarts,
            candidates=self.candidates,
            alpha_max=self.alpha_max,
            eta=self.eta,
            beta=self.beta,
            epsilon=self.epsilon,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
