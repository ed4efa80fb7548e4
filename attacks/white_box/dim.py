"""Diverse inputs method (M-DI²-FGSM): every step sees the image resized and padded at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from attacks.ball import Ball, Norm
from attacks.gradient import OnFinding, ascend, refuse
from attacks.objective import CrossEntropy, Model
from attacks.spec import AttackSpec, Fraction, GreyLevels, Scene, Steps
from attacks.white_box.mim import Decay

STREAM = 0xD1


def dim(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
    seeds: Sequence[int],
    probability: float = 0.5,
    rate: float = 0.9,
    decay: float = 1.0,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """``mim`` on the gradient of ``J(T(x_k; p), y)``, where T resizes and pads with probability p.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        epsilon: L-inf budget in grey levels.
        step: α in grey levels.
        seeds: one non-negative integer an image.
        probability: p.
        rate: the smallest size, as a share of the image's side.
        decay: μ; 0 is DI²-FGSM.
        on_finding: told of gradients that are zero or not finite; raises by default.

    Returns ``float32[N, H, W, C]`` in ``[x - ε, x + ε] ∩ [0, 255]``.
    """
    return ascend(
        model,
        pixels,
        labels,
        Ball.around(pixels, epsilon),
        objective=CrossEntropy(targeted),
        step=step,
        steps=steps,
        momentum=decay,
        transform=diversity(seeds, probability, rate),
        on_finding=on_finding,
    )


def diversity(
    seeds: Sequence[int], probability: float, rate: float
) -> Callable[[Tensor, int], Tensor]:
    """T of section 3.3, on pixels and the step's number: each image with ``probability`` resized
    (bilinear) to a size of its own drawn from [rate, 1] and put at a random place on black.

    The paper pads to a canvas larger than the image; here the canvas keeps the image's size, which
    every model takes. What an image meets depends on its seed and the step.
    """

    def transform(pixels: Tensor, number: int) -> Tensor:
        height, width = pixels.shape[1:3]
        boxes = np.zeros((len(seeds), 4), dtype=np.int64)
        for row, seed in enumerate(seeds):
            rng = np.random.default_rng((seed, STREAM, number))
            smaller = rng.integers(int(rate * height), height, endpoint=True) / height
            scale = smaller if rng.random() < probability else 1.0
            inner = np.maximum(1, np.rint(np.array([height, width]) * scale)).astype(np.int64)
            offset = rng.integers(0, np.array([height, width]) - inner, endpoint=True)
            boxes[row] = *inner, *offset
        return placed(pixels, torch.from_numpy(boxes).to(pixels.device))

    return transform


def placed(pixels: Tensor, boxes: Tensor) -> Tensor:
    """Every image resized into a box of its own on a black canvas of its old size; bilinear between
    pixel centres, differentiable.

    Args:
        pixels: ``float32[N, H, W, C]``.
        boxes: ``int64[N, 4]``: height, width, top and left of each box in pixels.
    """
    height, width = pixels.shape[1:3]
    vertical, above = _look_up(height, boxes[:, 0], boxes[:, 2])
    horizontal, beside = _look_up(width, boxes[:, 1], boxes[:, 3])
    grid = torch.stack(
        [
            horizontal[:, None].expand(-1, height, -1),
            vertical[:, :, None].expand(-1, -1, width),
        ],
        dim=3,
    )
    # double: the sign of a small gradient must not depend on how a batch's size orders the sums
    resized = functional.grid_sample(
        pixels.permute(0, 3, 1, 2).double(), grid, padding_mode="border", align_corners=False
    )
    canvas = resized * (above[:, None, :, None] & beside[:, None, None])
    return canvas.permute(0, 2, 3, 1).to(pixels.dtype).contiguous()


def _look_up(side: int, inner: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Where each of ``side`` canvas pixels looks in the image, ``float64[N, side]`` from -1 to
    1 as ``grid_sample`` counts, and whether each lies in the box, ``bool[N, side]``."""
    place = torch.arange(side, device=inner.device)[None] - offset[:, None]
    within = (place >= 0) & (place < inner[:, None])
    return (2 * place.double() + 1) / inner[:, None] - 1, within


class DIM(AttackSpec):
    """Spec of ``dim``."""

    citation: ClassVar = "Xie et al. 2019, arXiv 1803.06978, section 3.3"
    smoke: ClassVar = {"steps": 5, "step_fraction": 0.25}

    method: Literal["dim"] = "dim"
    norm: Literal[Norm.LINF] = Norm.LINF
    epsilon: GreyLevels
    step_fraction: Fraction = 1 / 10
    """α / ε."""
    steps: Steps = 10
    decay: Decay = 1.0
    probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How often a step sees the image resized and padded."""
    rate: Fraction = 0.9
    """The smallest size, as a share of the image's side."""

    def attack(self, scene: Scene) -> Tensor:
        return dim(
            scene.model,
            scene.pixels,
            scene.labels,
            epsilon=self.budget,
            step=self.budget * self.step_fraction,
            steps=self.steps,
            seeds=scene.seeds,
            probability=self.probability,
            rate=self.rate,
            decay=self.decay,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
