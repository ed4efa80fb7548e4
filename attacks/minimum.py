"""What attacks share that look for the smallest change: the best image so far, the search for the
constant that weighs change against success, the nearest boundary, and what ailed the gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from attacks.ball import WHITE, Norm, size
from attacks.gradient import Ailment, GradientFinding, OnFinding
from attacks.objective import Model, gaps, reached

DUAL = {Norm.LINF: Norm.L1, Norm.L2: Norm.L2, Norm.L1: Norm.LINF}
"""``|gap| / ||∇gap||_dual`` is the distance to a hyperplane in the norm."""


def each(values: Tensor) -> Tensor:
    """One number an image, ``[N]``, as ``[N, 1, 1, 1]`` to meet ``[N, H, W, C]``."""
    return values[:, None, None, None]


@dataclass(slots=True)
class Closest:
    """The smallest change so far that turned each of N images."""

    source: Tensor
    image: Tensor
    """``float32[N, H, W, C]``: the source where nothing has turned it."""
    length: Tensor
    """``[N]``, in the measure of whoever offers; infinite where nothing has turned it."""

    @classmethod
    def to(cls, source: Tensor) -> Self:
        return cls(
            source, source.clone(), torch.full((len(source),), float("inf"), device=source.device)
        )

    def offer(self, rows: Tensor, candidates: Tensor, turned: Tensor, length: Tensor) -> None:
        """Keep, of the images at ``rows``, the ``candidates`` that ``turned`` and are shorter."""
        better = turned & (length < self.length[rows])
        improved = rows[better]
        if len(improved):
            self.image[improved] = candidates[better]
            self.length[improved] = length[better]

    def within(self, epsilon: float | None, norm: Norm) -> Tensor:
        """``float32[N, H, W, C]``: the source where nothing within ``epsilon`` has been found."""
        if epsilon is None:
            return self.image
        far = size(self.image - self.source, norm) > epsilon
        return torch.where(each(far), self.source, self.image)


@dataclass(slots=True)
class ConstantSearch:
    """The smallest constant c of ``change + c f`` that turns each image: times ten until it does,
    then halving (Carlini and Wagner 2017, section V-C)."""

    constant: Tensor
    """``[N]``: the one to try next."""
    lower: Tensor
    upper: Tensor

    @classmethod
    def starting_at(cls, initial: float, pixels: Tensor) -> Self:
        constant = torch.full((len(pixels),), initial, device=pixels.device)
        return cls(constant, torch.zeros_like(constant), torch.full_like(constant, float("inf")))

    def narrow(self, turned: Tensor) -> None:
        """``bool[N]``: whether the last constant turned the image."""
        self.upper = torch.where(turned, self.constant, self.upper)
        self.lower = torch.where(turned, self.lower, self.constant)
        self.constant = torch.where(
            self.upper.isinf(),
            (self.constant * 10).clamp(max=1e10),
            (self.lower + self.upper) / 2,
        )


class Progress:
    """When to end each image's descent: its lowest loss has not fallen by 0.01 % in the last tenth
    of the steps. The released code of Carlini and Wagner and of Chen et al. looks at one loss a
    tenth, and libraries at the sum of a batch's; one loss of one image goes up and down, and ends
    descents that still get on."""

    def __init__(self, images: int, steps: int, device: torch.device) -> None:
        self._every = math.ceil(steps / 10)
        self._lowest = torch.full((images,), float("inf"), device=device)
        self._before = self._lowest

    def kept(self, step: int, loss: Tensor) -> Tensor | None:
        """``int64[m]``: at the end of a tenth, the images that go on, if some do not."""
        self._lowest = torch.minimum(self._lowest, loss)
        if (step + 1) % self._every:
            return None
        goes_on = self._lowest <= 0.9999 * self._before
        kept = goes_on.nonzero()[:, 0]
        self._lowest = self._before = self._lowest[kept]
        return kept if len(kept) < len(goes_on) else None


def won(logits: Tensor, labels: Tensor, *, confidence: float, targeted: bool) -> Tensor:
    """``bool[N]``: reached, and by a margin of at least ``confidence``."""
    margin = -gaps(logits, labels, targeted=targeted).amin(dim=1)
    return reached(logits, labels, targeted=targeted) & (margin >= confidence)


class GradientHealth:
    """Which of N images had a gradient that could not guide, told once the attack is over."""

    def __init__(self, pixels: Tensor) -> None:
        self._zero = torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
        self._not_finite = torch.zeros_like(self._zero)
        self._none = False

    def connected(self, value: Tensor) -> bool:
        """Whether ``value`` has a gradient at all; remembered if not."""
        self._none |= not value.requires_grad
        return value.requires_grad

    def mended(self, gradient: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
        """The gradient of the images at ``rows``, all 0 where it was not finite.

        Args:
            wanted: ``bool[len(rows)]``: the image still needs one, so that zero is an ailment.
        """
        largest = torch.linalg.vector_norm(gradient, ord=float("inf"), dim=(1, 2, 3))
        finite = largest.isfinite()
        self._not_finite[rows] |= ~finite
        self._zero[rows] |= (largest == 0) & wanted
        return gradient.masked_fill(each(~finite), 0)

    def report(self, on_finding: OnFinding) -> None:
        if self._none:
            on_finding(GradientFinding(Ailment.NONE, tuple(range(len(self._zero)))))
        for ailment, rows in ((Ailment.NOT_FINITE, self._not_finite), (Ailment.ZERO, self._zero)):
            if rows.any():
                on_finding(GradientFinding(ailment, tuple(rows.nonzero()[:, 0].tolist())))


def movable(pixels: Tensor, step: Tensor) -> Tensor:
    """``step`` without the components that lead from black or white out of the grey range."""
    outward = ((pixels <= 0) & (step < 0)) | ((pixels >= WHITE) & (step > 0))
    return step.masked_fill(outward, 0)


@dataclass(frozen=True, slots=True)
class Boundary:
    """The nearest of the linearised decision boundaries of n images at their pixels x:
    ``{y : gap + <normal, y - x> = 0}``."""

    gap: Tensor
    """``[n]``; below 0 is across."""
    normal: Tensor
    """``[n, H, W, C]``: the gap's gradient, 0 where it could not guide."""
    turned: Tensor
    """``bool[n]``: x itself is across a boundary already."""


def nearest_boundary(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    rows: Tensor,
    health: GradientHealth,
    *,
    norm: Norm,
    candidates: int,
    targeted: bool,
) -> Boundary | None:
    """One forward pass, and a backward pass for each of the ``candidates`` smallest gaps; None if
    the logits do not depend on the pixels.

    The distance in ``norm`` leaves out the pixels that the grey range holds where they are.

    Args:
        model: for the images at ``rows`` alone.
        pixels: ``float32[n, H, W, C]`` of the images at ``rows``, as are the ``labels``.
    """
    x = pixels.detach().requires_grad_()
    logits = model(x)
    every_gap = gaps(logits, labels, targeted=targeted)
    if not health.connected(every_gap):
        return None
    with torch.no_grad():
        turned = reached(logits, labels, targeted=targeted)
    count = min(candidates, every_gap.shape[1])
    columns = every_gap.detach().topk(count, dim=1, largest=False).indices
    near = every_gap.gather(1, columns)
    distance = torch.full_like(near[:, 0], float("inf"))
    gap, normal = near[:, 0].detach(), torch.zeros_like(pixels)
    for column in range(count):
        (gradient,) = torch.autograd.grad(near[:, column].sum(), x, retain_graph=column < count - 1)
        with torch.no_grad():
            gradient = health.mended(gradient, rows, ~turned)
            value = near[:, column].detach()
            free = movable(pixels, -gradient * each(value.sign().to(gradient.dtype)))
            length = size(free, DUAL[norm])
            away = torch.where(length > 0, value.abs() / length, float("inf"))
            closer = away < distance
            distance = torch.where(closer, away, distance)
            gap = torch.where(closer, value, gap)
            normal = torch.where(each(closer), gradient, normal)
    return Boundary(gap.to(pixels.dtype), normal, turned)
