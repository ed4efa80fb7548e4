"""Projected gradient descent whose perturbation is smooth: low spatial frequencies only.

What survives resizing, blurring and compression is smooth, and so are shading artefacts that a
reader takes for the device's.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks.ball import WHITE, Ball, Norm
from attacks.gradient import OnFinding, ascend, refuse
from attacks.objective import CrossEntropy, Model
from attacks.spec import AttackSpec, Fraction, GreyLevels, Scene, Steps

ROUNDS = 5
"""Turns of clipping and filtering a step; more fill the budget by a few per cent at most."""


def low_pass(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
    cutoff: float = 0.25,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """``δ_{k+1} = fit(δ_k + α sign(P ∇_x J(x + δ_k, y)))`` from ``δ_0 = 0``; the last iterate.

    P keeps the lowest frequencies of the discrete cosine transform. ``fit`` returns to the budget
    in this order: clip to ε and filter, ``ROUNDS`` times, then *scale* into ε, which keeps δ
    low-pass where clipping would not. δ itself is never clipped to the grey range: the model sees
    ``clip(x + δ, 0, 255)``, and so does the caller. Where that binds, on black and white areas, the
    change is δ cut off, the one exception to its being low-pass; rounding to a file's whole grey
    levels comes after.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        epsilon: L-inf budget in grey levels.
        step: α in grey levels.
        cutoff: share of the frequencies kept, of each of the rows and columns.
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]`` in ``[x - ε, x + ε] ∩ [0, 255]``.
    """

    def smooth(change: Tensor) -> Tensor:
        return low_frequencies(change, cutoff)

    def fit(x: Tensor) -> Tensor:
        change = x - pixels
        for _ in range(ROUNDS):
            change = smooth(change.clamp(-epsilon, epsilon))
        largest = change.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
        return pixels + change * (epsilon / largest).clamp(max=1)

    def seen(x: Tensor, number: int) -> Tensor:
        del number
        return x.clamp(0, WHITE)

    attacked = ascend(
        model,
        pixels,
        labels,
        Ball.around(pixels, epsilon),
        objective=CrossEntropy(targeted),
        step=step,
        steps=steps,
        transform=seen,
        shape_gradient=smooth,
        project=fit,
        on_finding=on_finding,
    )
    return attacked.clamp(0, WHITE)


def low_frequencies(change: Tensor, cutoff: float) -> Tensor:
    """P: the orthogonal projection of ``[N, H, W, C]`` onto the lowest share ``cutoff`` (at least
    one) of the frequencies of the discrete cosine transform (DCT-II), along rows and columns."""
    kept = change.double()
    for axis in (1, 2):
        side = change.shape[axis]
        # the cosine transform of a line is the Fourier transform of the line and its mirror image
        spectrum = torch.fft.rfft(torch.cat([kept, kept.flip(axis)], dim=axis), dim=axis)
        count = max(1, round(cutoff * side))
        low = spectrum.narrow(axis, 0, min(count, side))
        kept = torch.fft.irfft(low, n=2 * side, dim=axis).narrow(axis, 0, side)
    return kept.to(change.dtype).contiguous()


class LowPass(AttackSpec):
    """Spec of ``low_pass``."""

    citation: ClassVar = (
        "Guo, Frank and Weinberger 2018, arXiv 1809.08758, section 3; "
        "white-box as in Sharma et al. 2019, arXiv 1903.00073"
    )
    smoke: ClassVar = {"steps": 5, "step_fraction": 0.25}

    method: Literal["low_pass"] = "low_pass"
    norm: Literal[Norm.LINF] = Norm.LINF
    epsilon: GreyLevels
    step_fraction: Fraction = 1 / 10
    """α / ε."""
    steps: Steps = 20
    cutoff: Fraction = 0.25
    """Share of the frequencies kept, of each of the rows and columns."""

    def attack(self, scene: Scene) -> Tensor:
        return low_pass(
            scene.model,
            scene.pixels,
            scene.labels,
            epsilon=self.budget,
            step=self.budget * self.step_fraction,
            steps=self.steps,
            cutoff=self.cutoff,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
