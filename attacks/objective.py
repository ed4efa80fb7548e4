"""What an attack raises: one number an image, a function of class logits and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

Model = Callable[[Tensor], Tensor]
"""Pixels ``float32[N, H, W, C]`` in grey levels to class logits ``[N, K]``, K at least 2."""


class Objective(Protocol):
    """``labels`` are the classes to leave, or with ``targeted`` the classes to reach."""

    @property
    def targeted(self) -> bool:
        """Whether ``labels`` are targets."""
        ...

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """``[N]`` from class logits ``[N, K]`` and ``int64[N]``; the attack ascends it."""
        ...


def reached(logits: Tensor, labels: Tensor, *, targeted: bool) -> Tensor:
    """``bool[N]``: the predicted class is the target, or (untargeted) no longer the label.
    A row of logits that is not finite has reached nothing."""
    predicted = logits.argmax(dim=1)
    hit = predicted == labels if targeted else predicted != labels
    return hit & logits.isfinite().all(dim=1)


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """``-log softmax(z)_y``; negated when ``y`` is a target."""

    targeted: bool = False

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = functional.cross_entropy(logits, labels, reduction="none")
        return -loss if self.targeted else loss


@dataclass(frozen=True, slots=True)
class Margin:
    """``-max(z_y - max_{i != y} z_i + κ, 0)``: objective f_6 of Carlini and Wagner (2017) with
    confidence κ, as Madry et al. and Ma et al. (2021) ascend it. With a target t the difference
    is ``max_{i != t} z_i - z_t``.

    Its gradient is zero once the margin is won by κ or more: the attack then rests.
    """

    kappa: float = 0.0
    masked: bool = True
    """False reproduces the released code of Ma et al.: the true logit is multiplied by 0 instead
    of being left out, so that the "best other" logit is never below 0. Where all the others are
    below 0 only the true logit guides the attack; on the class of a sigmoid head whose logit is
    the constant 0, nothing does."""
    targeted: bool = False

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        at_label = functional.one_hot(labels, logits.shape[1]).bool()
        own = logits.masked_fill(~at_label, 0).sum(dim=1)
        other = logits.masked_fill(at_label, float("-inf") if self.masked else 0.0).amax(dim=1)
        behind = other - own if self.targeted else own - other
        return -torch.relu(behind + self.kappa)
