"""What an attack raises: one number an image, a function of logits and labels.

Everything here takes both kinds of label. ``int64[N]`` holds one class an image, for softmax and
for single-logit sigmoid models (whose logits are ``(0, z)``, two classes). ``bool[N, L]`` holds one
finding a column, for multi-label models, whose decisions are the signs of ``L`` logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

Model = Callable[[Tensor], Tensor]
"""Pixels ``float32[N, H, W, C]`` in grey levels to class logits ``[N, K]``, K at least 2, or to the
findings' logits ``[N, L]`` of a multi-label model."""


class Objective(Protocol):
    """``labels`` are the classes to leave, or with ``targeted`` the classes to reach."""

    @property
    def targeted(self) -> bool:
        """Whether ``labels`` are targets."""
        ...

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """``[N]`` from logits ``[N, K]`` and labels; the attack ascends it."""
        ...


def decisions(logits: Tensor, *, multilabel: bool) -> Tensor:
    """What the model answers, as labels: ``int64[N]``, or ``bool[N, L]`` if ``multilabel``."""
    return logits > 0 if multilabel else logits.argmax(dim=1)


def reached(logits: Tensor, labels: Tensor, *, targeted: bool) -> Tensor:
    """``bool[N]``: the answer is the target, or (untargeted) no longer the label; of findings,
    untargeted, at least one differs. A row of logits that is not finite has reached nothing."""
    same = decisions(logits, multilabel=labels.ndim == 2) == labels
    if labels.ndim == 2:
        same = same.all(dim=1)
    return (same if targeted else ~same) & logits.isfinite().all(dim=1)


def gaps(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
    """``[N, M]``: how far the logits are from each way in which the attack could succeed; below 0
    is across.

    Untargeted: ``z_y - z_j`` for each other class j in order (M = K - 1), or ``z_l`` with the sign
    of each finding (M = L). Targeted: the one number ``max_{i != t} z_i - z_t`` (M = 1), or the
    largest of the findings' distances to their target.
    """
    if labels.ndim == 2:
        signed = torch.where(labels, logits, -logits)
        return -signed.amin(dim=1, keepdim=True) if targeted else signed
    own = logits.gather(1, labels[:, None])
    others = torch.arange(logits.shape[1] - 1, device=logits.device)[None]
    rest = logits.gather(1, others + (others >= labels[:, None]))
    return rest.amax(dim=1, keepdim=True) - own if targeted else own - rest


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """``-log softmax(z)_y``, or summed over findings the binary cross-entropy; negated when the
    labels are targets."""

    targeted: bool = False

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        if labels.ndim == 2:
            loss = functional.binary_cross_entropy_with_logits(
                logits, labels.to(logits.dtype), reduction="none"
            ).sum(dim=1)
        else:
            loss = functional.cross_entropy(logits, labels, reduction="none")
        return -loss if self.targeted else loss


@dataclass(frozen=True, slots=True)
class Margin:
    """``-max(min_j gap_j + κ, 0)``, for classes ``-max(z_y - max_{i != y} z_i + κ, 0)``: objective
    f_6 of Carlini and Wagner (2017) with confidence κ, as Madry et al. and Ma et al. (2021) ascend
    it. With a target t the difference is ``max_{i != t} z_i - z_t``.

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
        nearest = gaps(logits, labels, targeted=self.targeted).amin(dim=1)
        if not self.masked and labels.ndim == 1:
            own = logits.gather(1, labels[:, None])[:, 0]
            floored = torch.relu(-nearest + own if not self.targeted else nearest + own)
            nearest = floored - own if self.targeted else own - floored
        return -torch.relu(nearest + self.kappa)


@dataclass(frozen=True, slots=True)
class LogitsRatio:
    """Difference of logits ratio of Croce and Hein (2020), arXiv 2003.01690, equations 6 and 7:
    ``-(z_y - max_{i != y} z_i) / (z_π1 - z_π3)``, with π the descending order. Towards a target t,
    who alone is known here, ``-(max_{i != t} z_i - z_t) / (z_π1 - (z_π3 + z_π4) / 2)``, where the
    paper has the true class in place of the best other.

    It is undefined below three classes (targeted: four), where every library divides by zero or
    stops. There, and for findings, this is the bare margin: with two classes both losses have
    gradients of the same direction, so that nothing but the scale is lost.
    """

    targeted: bool = False

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        nearest = gaps(logits, labels, targeted=self.targeted).amin(dim=1)
        classes = logits.shape[1]
        if labels.ndim == 2 or classes < (4 if self.targeted else 3):
            return -nearest
        ordered = logits.sort(dim=1, descending=True).values
        third = (ordered[:, 2] + ordered[:, 3]) / 2 if self.targeted else ordered[:, 2]
        return -nearest / (ordered[:, 0] - third).clamp(min=1e-12)
