"""Heads as tensor operations. What each head means is on ``models.spec.Head``."""

from __future__ import annotations

import torch
from torch import Tensor

from models.spec import Head


def class_logits(logits: Tensor, head: Head) -> Tensor:
    """``float32[N, K]``: one logit a class whatever the head, so that ``argmax`` is the predicted
    class and, but for multi-label, ``softmax`` the probabilities (a sigmoid is a softmax over
    ``(0, z)``)."""
    if head is Head.SIGMOID:
        return torch.cat([torch.zeros_like(logits), logits], dim=1)
    return logits


def probabilities(logits: Tensor, head: Head) -> Tensor:
    """``float32[N, K]`` in ``[0, 1]``. They sum to one but for multi-label."""
    if head is Head.MULTILABEL:
        return torch.sigmoid(logits)
    return torch.softmax(class_logits(logits, head), dim=1)
