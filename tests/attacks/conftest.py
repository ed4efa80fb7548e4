"""Two small trained classifiers, soft enough that attacks neither always nor never succeed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.head import class_logits
from models.spec import Head

SIDE = 16


class SmallClassifier(nn.Module):
    """Pixels ``float32[N, 16, 16, 1]`` to class logits. In double precision, so that a batch's
    size does not decide the sign of a gradient that is nearly zero."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head
        self.network = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.Softplus(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.Softplus(),
            nn.Flatten(),
            nn.Linear(256, 1 if head is Head.SIGMOID else 3),  # three classes or three findings
        ).double()

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels.double().permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        return class_logits(self.network(x), self.head)


@dataclass(frozen=True)
class Task:
    model: SmallClassifier
    pixels: Tensor
    """``float32[N, 16, 16, 1]``, whole grey levels."""
    labels: Tensor
    """``int64[N]``, or ``bool[N, 3]`` of a multi-label model."""
    surrogate: SmallClassifier | None = None
    """The same, trained from another seed."""

    @property
    def images(self) -> list[np.ndarray]:
        return list(self.pixels.numpy().astype(np.uint8))


def _images(classes: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE * 2 * np.pi
    patterns = np.stack([np.sin(2 * rows), np.sin(2 * columns), np.sin(rows + columns)])
    noise = rng.normal(scale=20, size=(count, SIDE, SIDE))
    pixels = np.clip(np.rint(120 + 6 * patterns[labels] + noise), 0, 255)
    # black and white corners, as scanners and digitisers leave them
    pixels[:, :3, :3], pixels[:, -3:, -3:] = 0, 255
    return torch.from_numpy(pixels[..., None].astype(np.float32)), torch.from_numpy(labels)


def _fitted(head: Head, classes: int, seed: int) -> SmallClassifier:
    torch.manual_seed(seed)
    model = SmallClassifier(head)
    pixels, labels = _images(classes, 300, seed=1)
    goal = nn.functional.one_hot(labels, classes).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(200 if head is Head.MULTILABEL else 60):  # independent findings are harder
        optimizer.zero_grad()
        logits = model(pixels)
        loss = (
            nn.functional.binary_cross_entropy_with_logits(logits, goal)
            if head is Head.MULTILABEL
            else nn.functional.cross_entropy(logits, labels)
        )
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval().requires_grad_(False)


def _train(head: Head) -> Task:
    classes = 2 if head is Head.SIGMOID else 3
    pixels, labels = _images(classes, 100, seed=2)
    if head is Head.MULTILABEL:
        labels = nn.functional.one_hot(labels, classes).bool()
    return Task(_fitted(head, classes, 0), pixels, labels, _fitted(head, classes, 7))


@pytest.fixture(scope="session", params=[Head.SOFTMAX, Head.SIGMOID], ids=str)
def task(request: pytest.FixtureRequest) -> Task:
    return _train(request.param)


@pytest.fixture(scope="session")
def three_classes() -> Task:
    return _train(Head.SOFTMAX)


@pytest.fixture(scope="session")
def findings() -> Task:
    return _train(Head.MULTILABEL)
