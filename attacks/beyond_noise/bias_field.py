"""Bias field: the smooth uneven brightness of coils, grids and anode heel, chosen to mislead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacks.access import at
from attacks.ball import WHITE
from attacks.beyond_noise.search import shrink
from attacks.gradient import Ailment, GradientFinding, OnFinding, refuse
from attacks.objective import Model, gaps, reached
from attacks.spec import AttackSpec, Count, Fraction, Kind, Scene


def bias_field(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    gain: float,
    rung: float,
    steps: int,
    step_fraction: float,
    degree: int,
    halvings: int,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """``x B``, clipped, with B the exponential of a polynomial of low degree in the place, by
    gradient steps on the polynomial's coefficients.

    The bound on ``|log B|`` grows by a rung at a time and each rung starts where the last one
    ended, so that the first field that fools is a small one and a wider bound never finds less.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        gain: B lies in ``[1 / gain, gain]`` at every pixel.
        rung: by how much the bound on ``|log B|`` grows.
        steps: gradient steps on each rung.
        step_fraction: length of a step in coefficients, as a share of the rung's bound.
        degree: of the polynomial, over both axes together.
        halvings: of the way between no field and the one found.
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]``; the source where no field fools the model or none is needed.
    """
    basis = polynomials(pixels.shape[1], pixels.shape[2], degree).to(pixels)
    rungs = int(math.log(gain) / rung + 1e-6)
    bounds = [rung * number for number in range(1, rungs + 1) for _ in range(steps)]
    found = _climb(model, pixels, labels, basis, bounds, step_fraction, targeted, on_finding)

    def render(images: Tensor, coefficients: Tensor) -> Tensor:
        return shaded(images, coefficients, basis)

    attacked = pixels.clone()
    rows = (found != 0).any(dim=1).nonzero()[:, 0]
    if len(rows):
        smaller = shrink(
            at(model, rows),
            pixels[rows],
            labels[rows],
            render,
            found[rows],
            halvings,
            targeted=targeted,
        )
        attacked[rows] = render(pixels[rows], smaller)
    return attacked


def _climb(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    basis: Tensor,
    bounds: Sequence[float],
    step_fraction: float,
    targeted: bool,
    on_finding: OnFinding,
) -> Tensor:
    """``[N, P]``: coefficients of the first field that fools on the way through ``bounds``, one
    step each; zero where none does or none is needed."""
    coefficients = pixels.new_zeros(len(pixels), len(basis))
    found = torch.zeros_like(coefficients)
    not_finite = torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
    no_guidance = torch.zeros_like(not_finite)
    rows = torch.arange(len(pixels), device=pixels.device)
    # the field after the last step is judged too, by a pass that takes no step
    for bound in (*bounds, None):
        if len(rows) == 0:
            break
        now = coefficients[rows].requires_grad_(bound is not None)
        logits = at(model, rows)(shaded(pixels[rows], now, basis))
        fools = reached(logits, labels[rows], targeted=targeted)
        found[rows[fools]] = now.detach()[fools]
        if bound is not None:
            if not logits.requires_grad:
                on_finding(GradientFinding(Ailment.NONE, tuple(range(len(pixels)))))
                return torch.zeros_like(found)
            nearest = gaps(logits, labels[rows], targeted=targeted).amin(dim=1)
            (uphill,) = torch.autograd.grad(-nearest.sum(), now)
            finite = uphill.isfinite().all(dim=1)
            not_finite[rows] |= ~finite
            no_guidance[rows] |= (uphill == 0).all(dim=1) & ~fools
            uphill = uphill.masked_fill(~finite[:, None], 0)
            direction = uphill / uphill.norm(dim=1, keepdim=True).clamp(min=1e-30)
            stepped = now.detach() + step_fraction * bound * direction
            coefficients[rows] = within(stepped, basis, bound)
        rows = rows[~fools]
    for ailment, sick in ((Ailment.NOT_FINITE, not_finite), (Ailment.ZERO, no_guidance)):
        if sick.any():
            on_finding(GradientFinding(ailment, tuple(sick.nonzero()[:, 0].tolist())))
    return found


def polynomials(height: int, width: int, degree: int) -> Tensor:
    """``float32[P, H, W]``: products of Legendre polynomials of both axes whose degrees sum to at
    most ``degree``, on ``[-1, 1]²``; the first is constant. Each is at most 1 in magnitude, and
    they are orthogonal up to sampling, so that a gradient step favours none of them."""

    def legendre(points: int) -> list[Tensor]:
        t = (2 * torch.arange(points, dtype=torch.float64) + 1) / points - 1
        values = [torch.ones_like(t), t]
        for n in range(1, degree):
            values.append(((2 * n + 1) * t * values[n] - n * values[n - 1]) / (n + 1))
        return values

    down, across = legendre(height), legendre(width)
    return torch.stack(
        [
            torch.outer(down[i], across[total - i])
            for total in range(degree + 1)
            for i in range(total + 1)
        ]
    ).float()


def log_field(coefficients: Tensor, basis: Tensor) -> Tensor:
    """``[R, H, W]``: ``log B`` from coefficients ``[R, P]`` and the basis ``[P, H, W]``."""
    return torch.einsum("rp,phw->rhw", coefficients, basis)


def shaded(pixels: Tensor, coefficients: Tensor, basis: Tensor) -> Tensor:
    """``x B``, clipped to the grey range, of ``[R, H, W, C]``."""
    return (pixels * log_field(coefficients, basis).exp()[..., None]).clamp(0, WHITE)


def within(coefficients: Tensor, basis: Tensor, bound: float) -> Tensor:
    """Scaled down until ``|log B| <= bound`` everywhere."""
    largest = log_field(coefficients, basis).abs().flatten(1).amax(dim=1, keepdim=True)
    return coefficients * (bound / largest.clamp(min=1e-30)).clamp(max=1)


class BiasField(AttackSpec):
    """Spec of ``bias_field``."""

    citation: ClassVar = (
        "Tian et al. 2020, arXiv 2009.09247, section 3: the polynomial field, here without its "
        "local deformation and with steps of the margin's gradient"
    )
    kind: ClassVar = Kind.MINIMUM
    smoke: ClassVar = {"rung": 0.1, "steps": 3, "halvings": 2}

    method: Literal["bias_field"] = "bias_field"
    epsilon: None = None
    """No norm bounds it."""
    gain: Annotated[float, Field(ge=1, le=10)] = 1.5
    """The field lies in ``[1 / gain, gain]`` at every pixel; rounded down to a rung."""
    rung: Annotated[float, Field(ge=0.001, le=1)] = 0.05
    """By how much the bound on the field's logarithm grows at a time."""
    steps: Count = 5
    """On each rung."""
    step_fraction: Fraction = 1 / 2
    """Length of a step, as a share of the rung's bound."""
    degree: Annotated[int, Field(ge=1, le=10)] = 3
    """Of the polynomial, over both axes together."""
    halvings: Annotated[int, Field(ge=0, le=30)] = 6

    def attack(self, scene: Scene) -> Tensor:
        return bias_field(
            scene.model,
            scene.pixels,
            scene.labels,
            gain=self.gain,
            rung=self.rung,
            steps=self.steps,
            step_fraction=self.step_fraction,
            degree=self.degree,
            halvings=self.halvings,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
