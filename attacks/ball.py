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
        """A point of the ball: the nearest for L-inf, L2 and L1 but for the grey range, which is
        clipped to first and never left again by shrinking towards the source."""
        inside = torch.clamp(pixels, self.lower, self.upper)
        if self.norm is Norm.LINF:
            return inside
        change = inside - self.source
        if self.norm is Norm.L2:
            length = size(change, Norm.L2).clamp(min=1e-12)
            return self.source + change * (self.epsilon / length).clamp(max=1)[:, None, None, None]
        if self.norm is Norm.L1:
            return self.source + _onto_l1(change, self.epsilon)
        return self.source + _largest(change, int(self.epsilon))

    def random(self, seeds: Sequence[int], stream: int) -> Tensor:
        """``float32[N, H, W, C]``: uniform in the cube for L-inf, else a random direction at a
        random share of the radius. An image's point depends on its own seed, the stream and its
        shape, and on nothing else: not on its batch, the device or torch's state."""
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


def _onto_l1(change: Tensor, radius: float) -> Tensor:
    """Euclidean projection onto the L1 ball (Duchi et al. 2008)."""
    flat = change.flatten(1)
    magnitude = flat.abs()
    ordered = magnitude.sort(dim=1, descending=True).values
    excess = (ordered.cumsum(1) - radius) / torch.arange(
        1, flat.shape[1] + 1, device=flat.device, dtype=flat.dtype
    )
    last = (ordered > excess).sum(dim=1, keepdim=True).clamp(min=1) - 1
    shrink = excess.gather(1, last).clamp(min=0)
    shrunk = flat.sign() * (magnitude - shrink).clamp(min=0)
    return torch.where(magnitude.sum(1, keepdim=True) <= radius, flat, shrunk).view_as(change)


def _largest(change: Tensor, pixels: int) -> Tensor:
    """Keep the ``pixels`` pixels that changed most."""
    strength = change.abs().amax(dim=3).flatten(1)
    if pixels >= strength.shape[1]:
        return change
    if pixels == 0:
        return torch.zeros_like(change)
    kept = torch.zeros_like(strength, dtype=torch.bool)
    kept.scatter_(1, strength.topk(pixels, dim=1).indices, True)
    return change * kept.view(*change.shape[:3], 1)
