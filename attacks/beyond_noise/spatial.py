"""Rotation and translation: a patient who stood a little differently."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from attacks.ball import WHITE
from attacks.beyond_noise.search import grid, multiples, smallest
from attacks.objective import Model
from attacks.spec import AttackSpec, Kind, Need, Scene

Padding = Literal["edge", "black"]
"""What is seen beyond the image's border: its nearest pixel, or black as in the paper."""


def spatial(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    degrees: float,
    degree_spacing: float,
    shift: float,
    shift_spacing: float,
    halvings: int,
    padding: Padding = "edge",
    targeted: bool = False,
) -> Tensor:
    """The rotation with translation that moves the image least of those that fool the model.

    Engstrom et al. keep the one with the highest loss of the same grid; which images are fooled
    is the same.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        degrees: rotations lie in ``[-degrees, degrees]``.
        degree_spacing: of the rotations that are tried.
        shift: translations along each axis lie in ``[-shift, shift]`` pixels.
        shift_spacing: of the translations that are tried, in pixels.
        halvings: of the way between the source and the transform found.

    Returns ``float32[N, H, W, C]``; the source where no transform fools the model or none is
    needed.
    """
    turns, shifts = multiples(degrees, degree_spacing), multiples(shift, shift_spacing)
    settings = grid(turns, shifts, shifts).to(pixels)
    sizes = displacement(settings, pixels.shape[1], pixels.shape[2]).expand(len(pixels), -1)
    render = partial(moved, padding=padding)
    return smallest(model, pixels, labels, render, settings, sizes, halvings, targeted=targeted)


def moved(pixels: Tensor, transform: Tensor, padding: Padding = "edge") -> Tensor:
    """``[R, H, W, C]`` rotated about the centre and then shifted, in one bilinear sampling.

    Args:
        transform: ``[R, 3]``: counterclockwise degrees, pixels down, pixels to the right.
    """
    height, width = pixels.shape[1:3]
    angle, down, right = transform.to(pixels).unbind(dim=1)
    cosine, sine = torch.deg2rad(angle).cos(), torch.deg2rad(angle).sin()
    # Where a pixel of the result comes from: back by the shift, then back by the rotation, in the
    # sampler's units of half an image along each axis. Rows count downwards, so that this matrix
    # turns what is seen counterclockwise.
    aspect = height / width
    x, y = -right * 2 / width, -down * 2 / height
    source = torch.stack(
        [
            torch.stack([cosine, -sine * aspect, cosine * x - sine * aspect * y], dim=1),
            torch.stack([sine / aspect, cosine, sine / aspect * x + cosine * y], dim=1),
        ],
        dim=1,
    )
    image = pixels.permute(0, 3, 1, 2)
    places = functional.affine_grid(source, list(image.shape), align_corners=False)
    sampled = functional.grid_sample(
        image,
        places,
        mode="bilinear",
        padding_mode="border" if padding == "edge" else "zeros",
        align_corners=False,
    )
    return sampled.permute(0, 2, 3, 1).clamp(0, WHITE)


def displacement(transform: Tensor, height: int, width: int) -> Tensor:
    """``[M]``: how far the transforms ``[M, 3]`` move an image's pixels, root mean square, in
    pixels: ``|t|² + 2 (1 - cos θ) (H² + W²) / 12`` under the root."""
    angle, shift = torch.deg2rad(transform[:, 0].double()), transform[:, 1:].double()
    spread = (height**2 + width**2) / 12
    return (shift.square().sum(dim=1) + 2 * (1 - angle.cos()) * spread).sqrt()


class Spatial(AttackSpec):
    """Spec of ``spatial``."""

    citation: ClassVar = "Engstrom et al. 2019, arXiv 1712.02779, section 3.2, grid search"
    kind: ClassVar = Kind.MINIMUM
    needs: ClassVar = frozenset({Need.DECISIONS})
    smoke: ClassVar = {
        "degree_spacing": 10.0,
        "shift": 2.0,
        "shift_spacing": 2.0,
        "halvings": 2,
    }

    method: Literal["spatial"] = "spatial"
    epsilon: None = None
    """No norm bounds it."""
    degrees: Annotated[float, Field(ge=0, le=180, json_schema_extra={"unit": "degrees"})] = 15.0
    degree_spacing: Annotated[
        float, Field(ge=0.1, le=180, json_schema_extra={"unit": "degrees"})
    ] = 5.0
    shift: Annotated[float, Field(ge=0, le=100, json_schema_extra={"unit": "pixels"})] = 3.0
    """Along each axis, both ways."""
    shift_spacing: Annotated[float, Field(ge=0.1, le=100, json_schema_extra={"unit": "pixels"})] = (
        1.0
    )
    halvings: Annotated[int, Field(ge=0, le=30)] = 4
    padding: Padding = "edge"

    def attack(self, scene: Scene) -> Tensor:
        return spatial(
            scene.model,
            scene.pixels,
            scene.labels,
            degrees=self.degrees,
            degree_spacing=self.degree_spacing,
            shift=self.shift,
            shift_spacing=self.shift_spacing,
            halvings=self.halvings,
            padding=self.padding,
            targeted=self.targeted,
        )
