"""The images an attack may reach: a norm ball around the source met with the grey range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

WHITE = 255.0


class Norm(StrEnum):
    """How a perturbation is measured, in grey levels over all pixels and channels."""

    LINF = "linf"
    L2 = "l2"
    L1 = "l1"
    L0 = "l0"
    """Pixels that changed; a pixel counts once, whatever its channels."""


def size(change: Tensor, norm: Norm) -> Tensor:
    """``[N]``: the norm of each perturbation ``[N, H, W, C]``."""
    if norm is Norm.L0:
        return (change != 0).any(dim=3).flatten(1).sum(dim=1).to(change.dtype)
    order = {Norm.LINF: float("inf"), Norm.L2: 2.0, Norm.L1: 1.0}[norm]
    length: Tensor = torch.linalg.vector_norm(change.flatten(1), ord=order, dim=1)
    return length


@dataclass(frozen=True, slots=True)
class Ball:
    """``{x : ||x - source||_p <= ε} ∩ [0, 255]``."""

    source: Tensor
    epsilon: float
    norm: Norm
    lower: Tensor
    upper: Tensor

    @classmethod
    def around(cls, pixels: Tensor, epsilon: float, norm: Norm = Norm.LINF) -> Ball:
        """The ball around ``pixels``, ``float32[N, H, W, C]``; ``epsilon`` in grey levels."""
        if not pixels.is_floating_point():
            raise ValueError(f"pixels are {pixels.dtype}; give float32 grey levels")
        if epsilon < 0 or (norm is Norm.LINF and epsilon > WHITE):
            raise ValueError(f"epsilon is {epsilon}; give grey levels, L-inf ones from 0 to 255")
        reach = epsilon if norm is Norm.LINF else WHITE
        return cls(
            pixels,
            epsilon,
            norm,
            (pixels - reach).clamp_(min=0),
            (pixels + reach).clamp_(max=WHITE),
        )

    def project(self, pixels: Tensor) -> Tensor:
        """The nearest point of the ball.

        Nearest in the meeting of norm ball and grey range, not in one after the other, which for L1
        costs strength (Croce and Hein 2021, arXiv 2103.01208, section 3).
        """
        inside = torch.clamp(pixels, self.lower, self.upper)
        if self.norm is Norm.LINF:
            return inside
        change, clipped = pixels - self.source, inside - self.source
        if self.norm is Norm.L0:
            return self.source + _most_worthy(change, clipped, int(self.epsilon))
        room = torch.where(change > 0, self.upper - self.source, self.source - self.lower)
        onto = _onto_l2 if self.norm is Norm.L2 else _onto_l1
        # double: over 10^5 components the sums of single precision miss the radius visibly
        length = onto(change.abs().flatten(1).double(), room.flatten(1).double(), self.epsilon)
        moved = change.sign() * length.view_as(change).to(change.dtype)
        return (self.source + moved).clamp_(self.lower, self.upper)

    def feasible(self, pixels: Tensor, direction: Tensor) -> Tensor:
        """``direction`` without the components that point out of the grey range where ``pixels``
        are at its edge. A step of a given L2 or L1 length would be spent on them for nothing."""
        blocked = torch.where(direction > 0, pixels >= self.upper, pixels <= self.lower)
        return direction.masked_fill(blocked, 0)

    def random(self, seeds: Sequence[int], stream: int) -> Tensor:
        """``float32[N, H, W, C]``: uniform in the cube for L-inf, random greys on random pixels for
        L0, else a random direction at a random share of the radius. An image's point depends on
        its own seed, the stream and its shape, and on nothing else: not on its batch, the device or
        torch's state."""
        shape = self.source.shape[1:]
        if len(seeds) != len(self.source):
            raise ValueError(f"{len(seeds)} seeds for {len(self.source)} images; give one each")
        noise = np.stack(
            [
                np.random.default_rng((seed, stream)).random(shape, dtype=np.float32)
                for seed in seeds
            ]
        )
        cube = torch.from_numpy(noise).to(self.source).mul_(2).sub_(1)
        if self.norm is Norm.L0:
            return self.project(self.source + cube * WHITE)
        if self.norm is not Norm.LINF:
            share = cube.flatten(1)[:, :1].abs().view(-1, 1, 1, 1)
            cube = cube / size(cube, self.norm).clamp(min=1e-12)[:, None, None, None] * share
        return self.project(self.source + cube * self.epsilon)


def steepest(gradient: Tensor, norm: Norm, sparsity: float = 0.05) -> Tensor:
    """``[N, H, W, C]``: the direction of unit norm along which a linear function rises fastest.

    L-inf: the sign. L2: the gradient itself. L1: the sign on the share ``sparsity`` of the
    components that are largest, as in SLIDE (Tramèr and Boneh 2019, arXiv 1904.13000); one
    component alone would take thousands of steps.
    """
    if norm is Norm.LINF:
        return gradient.sign()
    if norm is Norm.L2:
        return gradient / size(gradient, Norm.L2).clamp(min=1e-12)[:, None, None, None]
    flat = gradient.flatten(1)
    kept = max(1, round(sparsity * flat.shape[1]))
    threshold = flat.abs().topk(kept, dim=1).values[:, -1:]
    signs = flat.sign() * (flat.abs() >= threshold)
    return (signs / signs.abs().sum(dim=1, keepdim=True).clamp(min=1)).view_as(gradient)


def _onto_l2(change: Tensor, room: Tensor, radius: float) -> Tensor:
    """Euclidean projection of magnitudes onto ``{z : ||z||_2 <= radius, z <= room}``, all
    ``float64[N, D]`` and not negative: ``z = min(λ change, room)``. λ is found exactly, between the
    components that have reached their room and those that have not."""
    fits = torch.minimum(change, room).square().sum(dim=1, keepdim=True) <= radius**2
    # component i has reached its room from λ = knot_i on
    knot, order = (room / change.clamp(min=1e-300)).clamp(max=1).sort(dim=1)
    full = room.gather(1, order).square()
    full_before = full.cumsum(1) - full
    growing = change.gather(1, order).square().flip(1).cumsum(1).flip(1)
    reached = full_before + knot.square() * growing
    at = (reached < radius**2).sum(dim=1, keepdim=True).clamp(max=change.shape[1] - 1)
    left = (radius**2 - full_before.gather(1, at)).clamp(min=0)
    scale = (left / growing.gather(1, at).clamp(min=1e-300)).sqrt()
    return torch.minimum(change * torch.where(fits, 1.0, scale), room)


def _onto_l1(change: Tensor, room: Tensor, radius: float) -> Tensor:
    """Euclidean projection of magnitudes onto ``{z : ||z||_1 <= radius, z <= room}``, all
    ``float64[N, D]`` and not negative: ``z = min((change - λ)_+, room)`` (Duchi et al. 2008 without
    the room). The sum of z grows piecewise linearly as λ falls; λ is read off exactly."""
    fits = torch.minimum(change, room).sum(dim=1, keepdim=True) <= radius
    # component i grows while λ falls from change_i to change_i - room_i
    knot, order = torch.cat([change, (change - room).clamp(min=0)], dim=1).sort(1, descending=True)
    begins = order < change.shape[1]
    growing = torch.where(begins, 1.0, -1.0).to(change).cumsum(1)[:, :-1]
    reached = (growing * (knot[:, :-1] - knot[:, 1:])).cumsum(1)
    at = (reached < radius).sum(dim=1, keepdim=True).clamp(max=reached.shape[1] - 1)
    above = (reached.gather(1, at) - radius) / growing.gather(1, at).clamp(min=1)
    shrink = torch.where(fits, 0.0, knot[:, 1:].gather(1, at) + above)
    return torch.minimum((change - shrink).clamp(min=0), room)


def _most_worthy(change: Tensor, clipped: Tensor, pixels: int) -> Tensor:
    """Euclidean projection onto changes of that many pixels inside the grey range: those whose
    clipped change saves most of the distance (Croce and Hein 2019, arXiv 1909.05040, section 4)."""
    saved = (change.square() - (change - clipped).square()).sum(dim=3).flatten(1)
    kept = torch.zeros_like(saved, dtype=torch.bool)
    kept.scatter_(1, saved.topk(min(pixels, saved.shape[1]), dim=1).indices, True)
    return clipped * kept.view(*change.shape[:3], 1)
