"""What a detector sees of an image: the diagnostic model's activations and what reads it beside."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Features(NamedTuple):
    """Features of N images. A NamedTuple of tensors, so that it traces and exports."""

    taps: tuple[Tensor, ...]
    """``float32[N, d_l]`` each: pooled activations in network order; the last is the penultimate
    layer (the input of the classifying layer)."""
    logits: Tensor
    """``float32[N, K]``, one per class whatever the head (``models.head.class_logits``)."""
    squeezed_logits: Tensor
    """``float32[N, K]``: the same for the squeezed view; ``[N, 0]`` when the guard has none."""
    squeeze_change: Tensor
    """``float32[N]``: root mean square of what squeezing changed, in units of the network's input;
    0 without a squeezed view."""
    witness_logits: Tensor
    """``float32[N, K]``: the student's (``detectors.student``); ``[N, 0]`` without one."""
    residual: Tensor
    """``float32[N, 1]``: the residual network's logit; ``[N, 0]`` without one."""
    picture: Tensor
    """``float32[N, P]``: ``detectors.picture``; ``[N, 0]`` where a bundle is older than it."""
    grain: Tensor
    """``float32[N, G]``: ``detectors.picture`` too; ``[N, 0]`` where no detector reads it."""
    aligned: Tensor
    """``float32[N, 2 or 3]``: ``detectors.aligned`` with the model's gradient, with the synthetic
    one or with both in this order; ``[N, 0]`` where no detector reads it."""

    @property
    def predicted(self) -> Tensor:
        """``int64[N]``: index of the class with the largest logit."""
        return self.logits.argmax(dim=1)

    def rows(self, index: Tensor) -> Features:
        """The images at ``index`` (integer or boolean)."""
        return Features(
            tuple(tap[index] for tap in self.taps),
            self.logits[index],
            self.squeezed_logits[index],
            self.squeeze_change[index],
            self.witness_logits[index],
            self.residual[index],
            self.picture[index],
            self.grain[index],
            self.aligned[index],
        )


def concatenate(parts: list[Features]) -> Features:
    """Join along N."""
    return Features(
        tuple(torch.cat(taps) for taps in zip(*(part.taps for part in parts), strict=True)),
        torch.cat([part.logits for part in parts]),
        torch.cat([part.squeezed_logits for part in parts]),
        torch.cat([part.squeeze_change for part in parts]),
        torch.cat([part.witness_logits for part in parts]),
        torch.cat([part.residual for part in parts]),
        torch.cat([part.picture for part in parts]),
        torch.cat([part.grain for part in parts]),
        torch.cat([part.aligned for part in parts]),
    )
