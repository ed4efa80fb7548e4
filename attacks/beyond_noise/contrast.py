"""Contrast and brightness: a linear grey window, chosen to mislead."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from attacks.ball import WHITE
from attacks.beyond_noise.search import grey_change, grid, multiples, smallest
from attacks.objective import Model
from attacks.spec import AttackSpec, Kind, Need, Scene

MIDDLE = WHITE / 2


def contrast(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    factor: float,
    factor_spacing: float,
    brightness: float,
    brightness_spacing: float,
    halvings: int,
    targeted: bool = False,
) -> Tensor:
    """``c (x - 127.5) + 127.5 + b``, clipped, with the smallest change of grey levels that fools
    the model.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        factor: c lies in ``[1 / factor, factor]``.
        factor_spacing: of the values of ``log c`` that are tried.
        brightness: b lies in ``[-brightness, brightness]`` grey levels.
        brightness_spacing: of the values of b that are tried, in grey levels.
        halvings: of the line between the source's window and the one found.

    Returns ``float32[N, H, W, C]``; the source where no window fools the model or none is needed.
    """
    settings = grid(
        multiples(math.log(factor), factor_spacing), multiples(brightness, brightness_spacing)
    ).to(pixels)
    sizes = grey_change(pixels, windowed, settings)
    return smallest(model, pixels, labels, windowed, settings, sizes, halvings, targeted=targeted)


def windowed(pixels: Tensor, window: Tensor) -> Tensor:
    """``c (x - 127.5) + 127.5 + b`` of ``[R, H, W, C]`` with ``(log c, b)`` ``[R, 2]``."""
    slope, shift = window[:, 0].exp().view(-1, 1, 1, 1), window[:, 1].view(-1, 1, 1, 1)
    return (slope * (pixels - MIDDLE) + MIDDLE + shift).clamp(0, WHITE)


class Contrast(AttackSpec):
    """Spec of ``contrast``."""

    citation: ClassVar = (
        "Brightness and contrast reduction attacks as in Rauber, Brendel and Bethge 2017, "
        "arXiv 1707.04131, searched together"
    )
    kind: ClassVar = Kind.MINIMUM
    needs: ClassVar = frozenset({Need.DECISIONS})
    smoke: ClassVar = {"factor_spacing": 0.2, "brightness_spacing": 20.0, "halvings": 3}

    method: Literal["contrast"] = "contrast"
    epsilon: None = None
    """No norm bounds it."""
    factor: Annotated[float, Field(ge=1, le=10)] = 1.5
    """The contrast lies in ``[1 / factor, factor]``; rounded down to the spacing, as brightness."""
    factor_spacing: Annotated[float, Field(ge=0.001, le=1)] = 0.1
    """Of the values of the contrast's logarithm: 0.1 is steps of 10 percent."""
    brightness: Annotated[float, Field(ge=0, le=255, json_schema_extra={"unit": "grey levels"})] = (
        40.0
    )
    brightness_spacing: Annotated[
        float, Field(ge=0.5, le=255, json_schema_extra={"unit": "grey levels"})
    ] = 8.0
    halvings: Annotated[int, Field(ge=0, le=30)] = 6

    def attack(self, scene: Scene) -> Tensor:
        return contrast(
            scene.model,
            scene.pixels,
            scene.labels,
            factor=self.factor,
            factor_spacing=self.factor_spacing,
            brightness=self.brightness,
            brightness_spacing=self.brightness_spacing,
            halvings=self.halvings,
            targeted=self.targeted,
        )
