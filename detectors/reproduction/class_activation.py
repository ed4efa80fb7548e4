"""What the last stage of a network responds to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.diagnostic import DiagnosticModel
from models.taps import TapProblem


class ClassActivation(NamedTuple):
    """Both ``float32[N, h, w]``, at the last stage's resolution."""

    grad_cam: Tensor
    mean_map: Tensor
    """The activation averaged over channels."""


def class_activation(model: DiagnosticModel, pixels: Tensor, classes: Tensor) -> ClassActivation:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2):
    ``ReLU(sum_k a_k A_k)`` with ``a_k`` the gradient of the class's logit averaged over the
    positions of channel k.

    Args:
        pixels: ``[N, H, W, C]`` in grey levels.
        classes: ``int64[N]``, whose logit is explained.

    Raises ``TapProblem`` for a network whose taps have no spatial one.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        kept.append(output)

    handle = last_stage(model).register_forward_hook(keep)
    try:
        with torch.enable_grad():
            # weights want no gradients, so the pixels must, for the activation to have one
            logits = model(pixels.detach().float().requires_grad_())
            chosen = logits.gather(1, classes[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, kept[0])
    finally:
        handle.remove()
    activation = kept[0].detach()
    weight = gradient.mean(dim=(2, 3), keepdim=True)
    return ClassActivation(torch.relu((weight * activation).sum(dim=1)), activation.mean(dim=1))


def last_stage(model: DiagnosticModel) -> nn.Module:
    """The module whose output is pooled into the penultimate features."""
    modules: dict[str, nn.Module] = dict(model.network.named_modules())
    spatial = [tap for tap in model.taps if tap in modules and not tap.endswith(".input")]
    if not spatial:
        raise TapProblem(f"{model.spec.name}: no tap is a spatial activation; name one in `taps`")
    return modules[spatial[-1]]
