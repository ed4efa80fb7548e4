"""Training on what an attacker or a worse detector would make of the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.preprocess import Preprocess


@dataclass(frozen=True, slots=True)
class Hardening:
    """How far training images are moved, in grey levels of 255. Each image draws its own strength,
    evenly from 0, so that the model keeps seeing images as they are."""

    epsilon: float = 6.0
    """Largest L-inf step against the model's answer."""
    noise: float = 8.0
    """Largest standard deviation of Gaussian noise."""
    attacked: float = 0.7
    """Share of images that are attacked; the others get noise."""


def harden(
    x: Tensor,
    gradient_at: Callable[[Tensor], Tensor],
    preprocess: Preprocess,
    hardening: Hardening,
    generator: torch.Generator,
) -> Tensor:
    """One signed step from a random start in the ball ("fast" adversarial training, Wong, Rice and
    Kolter 2020, arXiv 2001.03994, algorithm 3: step 1.25 ε), or noise.

    Args:
        x: ``float32[N, C, h, w]``, preprocessed.
        gradient_at: the gradient of the training loss there, of x's shape.

    Returns ``float32[N, C, h, w]``, within black and white.
    """

    def drawn() -> Tensor:
        return torch.rand(len(x), generator=generator).to(x.device).reshape(-1, 1, 1, 1)

    grey = preprocess.gain
    black, white = preprocess.bias, 255 * grey + preprocess.bias
    epsilon = hardening.epsilon * drawn() * grey
    start = (torch.rand(x.shape, generator=generator).to(x) * 2 - 1) * epsilon
    # augmentation has moved some pixels beyond white already: those stay where they are
    low, high = torch.minimum(x, black), torch.maximum(x, white)
    gradient = gradient_at((x + start).clamp(low, high))
    step = (start + 1.25 * epsilon * gradient.sign()).clamp(-epsilon, epsilon)
    noise = hardening.noise * drawn() * grey * torch.randn(x.shape, generator=generator).to(x)
    change = torch.where(drawn() < hardening.attacked, step, noise)
    return (x + change).clamp(low, high).contiguous(memory_format=torch.channels_last)
