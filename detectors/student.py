"""A small student of the diagnostic model that sees only the smoothed image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from detectors.descent import Progress, descend, initialise
from models.hardening import Hardening, harden
from models.preprocess import Preprocess

SIDE = 72
"""Pixels, about: the shorter side of what the student sees."""
WIDTHS = (16, 32, 64, 64)
STRIDES = (2, 2, 1, 2)
STEPS, EPOCHS = 1000, 25
"""At most, each: of training."""
BATCH = 32
LEARNING_RATE = 3e-3
ROBUST = Hardening(epsilon=4.0, noise=4.0)
"""It is taught to give the model's answer to the clean image when its own view is moved against it
by up to so much: an attacker who moves the model at 1 or 2 grey levels then cannot as easily move
the student along (robust distillation, Goldblum et al. 2020, arXiv 1905.09747)."""


class Student(nn.Module):
    """The network's input ``float32[N, C, h, w]`` to class logits ``float32[N, K]``.

    A mean over overlapping neighbourhoods, taken at every few pixels, leaves about ``SIDE`` pixels
    of the shorter side; four strided convolutions follow. Most of what an attack writes between
    neighbouring pixels is gone before the first of them.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, channels: int, size: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.stride = max(1, round(min(size) / SIDE))
        self.window = max(3, 2 * self.stride - 1)
        layers: list[nn.Module] = []
        inputs = channels
        for width, stride in zip(WIDTHS, STRIDES, strict=True):
            layers += [
                nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.classify = nn.Linear(inputs, classes)
        self.register_buffer("centre", torch.zeros(classes))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self.smoothed(x)) * self.scale + self.centre

    def smoothed(self, x: Tensor) -> Tensor:
        """``float32[N, C, h', w']``: what the student sees."""
        return functional.avg_pool2d(
            x, self.window, self.stride, padding=self.window // 2, count_include_pad=False
        )

    def answer(self, smoothed: Tensor) -> Tensor:
        """``float32[N, K]`` in the units that it is taught in."""
        logits: Tensor = self.classify(self.layers(smoothed).mean(dim=(2, 3)))
        return logits

    @torch.enable_grad()
    def teach(
        self,
        views: Tensor,
        answers: Tensor,
        preprocess: Preprocess,
        seed: int,
        progress: Progress = lambda *_: None,
    ) -> None:
        """Distillation (Hinton, Vinyals and Dean 2015, arXiv 1503.02531) by regression on logits,
        which needs no temperature, on views moved as ``ROBUST`` says: means over neighbourhoods
        move by no more than the pixels do. Deterministic for a seed.

        Args:
            views: ``float32[N, C, h', w']``, ``smoothed`` images.
            answers: ``float32[N, K]``, the diagnostic model's class logits of the same images.
            preprocess: how grey levels became the views' numbers.
        """
        steps = min(STEPS, EPOCHS * -(-len(views) // BATCH))
        targets = answers - answers.mean(dim=1, keepdim=True)
        self.centre = targets.mean(dim=0)
        # one scale for all classes: logits of any size are as easily learnt
        self.scale = targets.std().clamp(min=1e-3)
        wanted = (targets - self.centre) / self.scale
        generator = torch.Generator().manual_seed(seed)
        initialise(self.layers, self.classify, 0.05, generator)
        order = torch.randperm(len(views), generator=generator)

        def loss() -> Tensor:
            nonlocal order
            if len(order) < min(BATCH, len(views)):
                order = torch.randperm(len(views), generator=generator)
            rows, order = order[:BATCH], order[BATCH:]

            def gradient_at(moved: Tensor) -> Tensor:
                moved.requires_grad_()
                miss = functional.smooth_l1_loss(self.answer(moved), wanted[rows])
                return torch.autograd.grad(miss, moved)[0]

            seen = harden(views[rows], gradient_at, preprocess, ROBUST, generator)
            return functional.smooth_l1_loss(self.answer(seen), wanted[rows])

        descend(
            self,
            loss,
            steps=steps,
            learning_rate=LEARNING_RATE,
            weight_decay=0.05,
            progress=progress,
        )
