"""Diverse inputs method (M-DI²-FGSM): every step sees the image resized and padded at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from attacks.ball import Ball, Norm
from attacks.gradient import OnFinding, ascend, refuse
from attacks.objective import CrossEntropy, Model
from attacks.separable import separable
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
    (bilinear) to a size drawn from [rate, 1] of its own and put at a random place on black.

    The paper pads to a canvas larger than the image; here the canvas is the image's size, because a
    model's own resizing would undo the rest. What an image meets depends on its seed and the step.
    """

    def transform(pixels: Tensor, number: int) -> Tensor:
        height, width = pixels.shape[1:3]
        rows, columns = [], []
        for seed in seeds:
            rng = np.random.default_rng((seed, STREAM, number))
            smaller = rng.integers(int(rate * height), height, endpoint=True) / height
            scale = smaller if rng.random() < probability else 1.0
            for side, matrices in ((height, rows), (width, columns)):
                inner = max(1, round(side * scale))
                offset = int(rng.integers(0, side - inner, endpoint=True))
                matrices.append(placed(side, inner, offset))
        return separable(
            torch.from_numpy(np.stack(rows)).to(pixels.device),
            torch.from_numpy(np.stack(columns)).to(pixels.device),
            pixels,
        )

    return transform


def placed(side: int, inner: int, offset: int) -> npt.NDArray[np.float64]:
    """``float64[side, side]``: maps a line of ``side`` pixels to ``inner`` pixels, bilinear between
    pixel centres, that begin at ``offset``; zeros elsewhere."""
    centre = np.clip((np.arange(inner) + 0.5) * side / inner - 0.5, 0, side - 1)
    lower = np.floor(centre).astype(np.int64)
    upper = np.minimum(lower + 1, side - 1)
    line = np.arange(inner)
    matrix = np.zeros((side, side))
    np.add.at(matrix, (offset + line, lower), 1 - (centre - lower))
    np.add.at(matrix, (offset + line, upper), centre - lower)
    return matrix


class DIM(AttackSpec):
    """Spec of ``dim``."""

    citation: ClassVar = "Xie et al. 2019, arXiv 1803.06978, section 3.3"
    smoke: ClassVar = {"steps": 5}

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
