"""Adversarial patch: a small square that may look like anything, as a sticker or a marker would."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from attacks.ball import WHITE, Ball, Norm
from attacks.beyond_noise.learned import Learned, Schedule, commonest_shape, learn, resized
from attacks.gradient import OnFinding, ascend, refuse
from attacks.objective import Margin, Model
from attacks.spec import Attacker, AttackSpec, Count, Fraction, Labels, Need, Scene, Steps

GREY = WHITE / 2
_NEVER_WON = 1e4


def patch_on_image(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    side: int,
    step: float,
    steps: int,
    seeds: Sequence[int],
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """LaVAN: sign steps on the margin, in a square at a place drawn from the image's seed.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        side: of the square, in pixels.
        step: in grey levels.
        seeds: one non-negative integer an image.
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]`` that differs from ``pixels`` in the square alone.
    """
    corners = drawn_corners(seeds, side, *pixels.shape[1:3]).to(pixels.device)
    blank = pixels.new_full((len(pixels), side, side, pixels.shape[3]), GREY)
    inside = pasted(torch.zeros_like(pixels), torch.ones_like(blank), corners)
    return ascend(
        model,
        pasted(pixels, blank, corners),
        labels,
        Ball.around(pixels, WHITE),
        # a square is no smaller for being only just enough
        objective=Margin(_NEVER_WON, targeted=targeted),
        step=step,
        steps=steps,
        shape_gradient=lambda gradient: gradient * inside,
        on_finding=on_finding,
    )


def learn_patch(
    attacker: Attacker,
    *,
    area: float,
    pixels: float | None,
    schedule: Schedule,
    targeted: bool = False,
    leave: Labels = Labels.TRUE,
) -> Learned:
    """The square that fools the most of the attacker's images wherever it lies, for images of the
    size that most of them have: every time it is shown, it is shown somewhere else.

    Args:
        area: of the image, as ``pixels``, the most that it may cover: see ``side_of``.
    """

    def apply(copies: Tensor, images: Tensor, rng: np.random.Generator) -> Tensor:
        height, width, channels = images.shape[1:]
        side = side_of(area, pixels, height, width)
        corners = rng.integers(0, [height - side + 1, width - side + 1], (len(images), 2))
        return pasted(
            images,
            resized(copies, side, side, channels),
            torch.from_numpy(corners).to(images.device),
        )

    height, width, channels = commonest_shape(attacker.pixels)
    side = side_of(area, pixels, height, width)
    return learn(
        attacker,
        torch.full((side, side, channels), GREY).to(attacker.pixels[0]),
        apply,
        (0, WHITE),
        schedule,
        targeted=targeted,
        leave=leave,
    )


def side_of(area: float, pixels: float | None, height: int, width: int) -> int:
    """The longest side of a square that covers at most the share ``area`` of the image and at most
    so many pixels, at least 1."""
    most = area * height * width if pixels is None else min(area * height * width, pixels)
    # a square number that came through floating point is still one
    return max(1, min(int(math.sqrt(most + 1e-6)), height, width))


def drawn_corners(seeds: Sequence[int], side: int, height: int, width: int) -> Tensor:
    """``int64[N, 2]``: top and left of each image's square, anywhere that it fits."""
    free = [height - side + 1, width - side + 1]
    return torch.from_numpy(
        np.stack([np.random.default_rng((seed, 0)).integers(0, free) for seed in seeds])
    )


def pasted(pixels: Tensor, patches: Tensor, corners: Tensor) -> Tensor:
    """``[N, H, W, C]`` with each ``[side, side, C]`` laid over its image at ``[N, 2]`` corners."""
    (height, width), side = pixels.shape[1:3], patches.shape[1]
    down = torch.arange(height, device=pixels.device) - corners[:, :1]
    across = torch.arange(width, device=pixels.device) - corners[:, 1:]
    covered = ((down >= 0) & (down < side))[:, :, None] & ((across >= 0) & (across < side))[:, None]
    image = torch.arange(len(pixels), device=pixels.device)[:, None, None]
    laid = patches[
        image, down.clamp(0, side - 1)[:, :, None], across.clamp(0, side - 1)[:, None, :]
    ]
    return torch.where(covered[..., None], laid, pixels)


class Patch(AttackSpec):
    """Spec of the patch, ``learn_patch`` and ``patch_on_image``."""

    citation: ClassVar = (
        "Brown et al. 2017, arXiv 1712.09665, without scale and rotation; learned on the image "
        "itself: LaVAN, Karmon et al. 2018, arXiv 1801.02608"
    )
    needs: ClassVar = frozenset({Need.GRADIENTS, Need.IMAGES})
    smoke: ClassVar = {"epochs": 3, "steps": 3}

    method: Literal["patch"] = "patch"
    norm: Literal[Norm.L0] = Norm.L0
    epsilon: Annotated[float, Field(ge=1, json_schema_extra={"unit": "pixels"})] | None = None
    """The most pixels it may cover, if less than ``area``."""
    area: Fraction = 0.05
    """The share of the image that it covers at most."""
    learned_on: Literal["others", "image"] = "others"
    """The attacker's own images: one patch for all. Or the attacked image: one patch for each,
    and nothing to prepare."""
    epochs: Count = 100
    """Passes over the attacker's images, if learned on those."""
    batch: Count = 16
    steps: Steps = 100
    """On the image, if learned on that."""
    step_fraction: Fraction = 0.1
    """Step / 255; of the first step, if learned on others."""

    def prepare(self, attacker: Attacker) -> Learned | None:
        if self.learned_on == "image":
            return None
        return learn_patch(
            attacker,
            area=self.area,
            pixels=self.epsilon,
            schedule=Schedule(WHITE * self.step_fraction, self.epochs, self.batch),
            targeted=self.targeted,
            leave=self.labels,
        )

    def attack(self, scene: Scene) -> Tensor:
        height, width, channels = scene.pixels.shape[1:]
        side = side_of(self.area, self.epsilon, height, width)
        if self.learned_on == "image":
            return patch_on_image(
                scene.model,
                scene.pixels,
                scene.labels,
                side=side,
                step=WHITE * self.step_fraction,
                steps=self.steps,
                seeds=scene.seeds,
                targeted=self.targeted,
                on_finding=scene.on_finding,
            )
        learned: Learned = scene.prepared
        learned.report(len(scene.pixels), scene.on_finding)
        patches = resized(learned.of(scene.labels), side, side, channels)
        corners = drawn_corners(scene.seeds, side, height, width).to(scene.pixels.device)
        return pasted(scene.pixels, patches, corners)
