"""Translation-invariant method (TI-MI-FGSM): follows a gradient blurred over shifts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from attacks.ball import Ball, Norm
from attacks.gradient import OnFinding, ascend, refuse
from attacks.objective import CrossEntropy, Model
from attacks.spec import AttackSpec, Fraction, GreyLevels, Scene, Steps
from attacks.white_box.mim import Decay


def tim(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
    kernel: int = 15,
    sigmas: float = 3.0,
    decay: float = 1.0,
    targeted: bool = False,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """``mim`` on ``W * ∇_x J(x_k, y)``, the gradient convolved with a Gaussian kernel W: to first
    order the gradient averaged over shifted images (section 3.2).

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]`` or ``bool[N, L]``, to leave, or to reach if ``targeted``.
        epsilon: L-inf budget in grey levels.
        step: α in grey levels.
        kernel: side of W in pixels, odd.
        sigmas: standard deviations from the middle of W to its edge.
        decay: μ; 0 is TI-BIM.
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
        shape_gradient=blur(pixels, kernel, sigmas),
        on_finding=on_finding,
    )


def blur(pixels: Tensor, kernel: int, sigmas: float) -> Callable[[Tensor], Tensor]:
    """Convolution with W for images of as many channels as ``pixels``; zeros beyond the edge."""
    channels = pixels.shape[3]
    line = gaussian(kernel, sigmas).to(pixels.device).repeat(channels, 1, 1)
    rows, columns = line[..., None], line[:, :, None]
    reach = kernel // 2

    def convolved(gradient: Tensor) -> Tensor:
        # double: the sign of a small gradient must not depend on how a batch's size orders the sums
        planes = gradient.permute(0, 3, 1, 2).double()
        planes = functional.conv2d(planes, rows, padding=(reach, 0), groups=channels)
        planes = functional.conv2d(planes, columns, padding=(0, reach), groups=channels)
        return planes.permute(0, 2, 3, 1).to(gradient.dtype).contiguous()

    return convolved


def gaussian(kernel: int, sigmas: float) -> Tensor:
    """``float64[kernel]`` of sum 1, the factor of W. As in the authors' released code the edge lies
    ``sigmas`` deviations out: 15 pixels and 3 sigmas are a deviation of 7/3 pixels."""
    place = torch.linspace(-sigmas, sigmas, kernel, dtype=torch.float64)
    weight = torch.exp(-place.square() / 2)
    return weight / weight.sum()


class TIM(AttackSpec):
    """Spec of ``tim``."""

    citation: ClassVar = "Dong et al. 2019, arXiv 1904.02884, section 3.2"
    smoke: ClassVar = {"steps": 5, "step_fraction": 0.25}

    method: Literal["tim"] = "tim"
    norm: Literal[Norm.LINF] = Norm.LINF
    epsilon: GreyLevels
    step_fraction: Fraction = 1 / 10
    """α / ε."""
    steps: Steps = 10
    decay: Decay = 1.0
    kernel: Annotated[int, Field(ge=3, le=255, json_schema_extra={"unit": "pixels"})] = 15
    """Side of the Gaussian kernel; odd."""
    sigmas: Annotated[float, Field(gt=0, le=10)] = 3.0
    """Standard deviations from the kernel's middle to its edge."""

    @model_validator(mode="after")
    def _has_a_middle(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}; a kernel with a middle has an odd side")
        return self

    def attack(self, scene: Scene) -> Tensor:
        return tim(
            scene.model,
            scene.pixels,
            scene.labels,
            epsilon=self.budget,
            step=self.budget * self.step_fraction,
            steps=self.steps,
            kernel=self.kernel,
            sigmas=self.sigmas,
            decay=self.decay,
            targeted=self.targeted,
            on_finding=scene.on_finding,
        )
