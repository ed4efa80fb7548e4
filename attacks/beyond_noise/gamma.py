"""Gamma: the tone curve of a display or an export, chosen to mislead."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from attacks.ball import WHITE
from attacks.beyond_noise.search import grey_change, grid, multiples, smallest
from attacks.objective import Model
from attacks.spec import AttackSpec, Kind, Need, Scene


def gamma(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    bound: float,
    spacing: float,
    halvings: int,
    targeted: bool = False,
) -> Tensor:
    """``255 (x / 255)^γ`` with the smallest change of grey levels that fools the model.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        bound: γ lies in ``[1 / bound, bound]``.
        spacing: of the values of ``log γ`` that are tried.
        halvings: of the interval between γ = 1 and the one found.

    Returns ``float32[N, H, W, C]``; the source where no γ fools the model or none is needed.
    """
    settings = grid(multiples(math.log(bound), spacing)).to(pixels)
    sizes = grey_change(pixels, curved, settings)
    return smallest(model, pixels, labels, curved, settings, sizes, halvings, targeted=targeted)


def curved(pixels: Tensor, log_gamma: Tensor) -> Tensor:
    """``255 (x / 255)^γ`` of ``[R, H, W, C]`` with ``log γ`` ``[R, 1]``. Black and white stay."""
    exponent = log_gamma.exp().view(-1, 1, 1, 1)
    return (pixels / WHITE).pow(exponent).mul(WHITE).clamp(0, WHITE)


class Gamma(AttackSpec):
    """Spec of ``gamma``."""

    citation: ClassVar = (
        "The gamma attack of semantic adversarial examples, Hosseini and Poovendran 2018, "
        "arXiv 1804.00499, with one parameter"
    )
    kind: ClassVar = Kind.MINIMUM
    needs: ClassVar = frozenset({Need.DECISIONS})
    smoke: ClassVar = {"spacing": 0.2, "halvings": 3}

    method: Literal["gamma"] = "gamma"
    epsilon: None = None
    """No norm bounds it."""
    bound: Annotated[float, Field(ge=1, le=10)] = 2.0
    """γ lies in ``[1 / bound, bound]``; rounded down to the spacing."""
    spacing: Annotated[float, Field(ge=0.001, le=1)] = 0.05
    """Of the values of ``log γ``: 0.05 is steps of 5 percent."""
    halvings: Annotated[int, Field(ge=0, le=30)] = 6

    def attack(self, scene: Scene) -> Tensor:
        return gamma(
            scene.model,
            scene.pixels,
            scene.labels,
            bound=self.bound,
            spacing=self.spacing,
            halvings=self.halvings,
            targeted=self.targeted,
        )
