"""One perturbation for all images: learned on the attacker's own, then used on images unseen."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from attacks.access import at
from attacks.gradient import Ailment, GradientFinding, OnFinding, refuse
from attacks.objective import CrossEntropy, Objective, decisions, reached
from attacks.problem import AttackProblem
from attacks.spec import Attacker, Labels

Apply = Callable[[Tensor, Tensor, np.random.Generator], Tensor]
"""Perturbations ``[R, h, w, C]``, one a row, and pixels ``[R, H, W, C]`` to what the model sees."""


@dataclass(frozen=True)
class Learned:
    """What ``prepare`` hands to ``attack``."""

    perturbations: Tensor
    """``float32[T, h, w, C]``: one, or if targeted one for each target."""
    targets: Tensor | None
    """``int64[T]`` or ``bool[T, L]``; None if untargeted."""
    ailment: Ailment | None = None
    """What was wrong with the gradients, if a step had none at all to follow."""

    def of(self, labels: Tensor) -> Tensor:
        """``[N, h, w, C]``: each image's own, by its target.

        Raises ``AttackProblem`` for a target that none of the attacker's images had.
        """
        if self.targets is None:
            return self.perturbations.expand(len(labels), -1, -1, -1).to(labels.device)
        targets = self.targets.to(labels.device).view(len(self.targets), -1)
        same = (labels.view(len(labels), 1, -1) == targets).all(dim=2)
        if not same.any(dim=1).all():
            raise AttackProblem(
                "nothing was learned towards one of the targets: none of the attacker's images "
                "has it; give images of every target"
            )
        return self.perturbations.to(labels.device)[same.long().argmax(dim=1)]

    def report(self, images: int, on_finding: OnFinding) -> None:
        """Tell of the ailment, on all the images: they share what was learned."""
        if self.ailment is not None:
            on_finding(GradientFinding(self.ailment, tuple(range(images))))


@dataclass(frozen=True, slots=True)
class ClippedCrossEntropy:
    """The cross-entropy, clipped for labels to leave as in Shafahi et al. (2020), arXiv
    1811.11304: an image whose label is down to ``exp(-9)`` has no more say.

    Not the margin: it weighs images that resist as much as those that are nearly fooled, and on
    two classes the two sides cancel. The cross-entropy lets the resisting ones go.
    """

    targeted: bool = False

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return CrossEntropy(self.targeted)(logits, labels).clamp(max=9.0)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long to learn and in what steps."""

    step: float
    """Length of the first step in grey levels; the steps fall linearly to 0."""
    epochs: int
    batch: int


def learn(
    attacker: Attacker,
    start: Tensor,
    apply: Apply,
    bounds: tuple[float, float],
    schedule: Schedule,
    *,
    targeted: bool,
    leave: Labels,
) -> Learned:
    """Sign steps on the clipped cross-entropy, summed over a batch of the attacker's images at a
    time. Images that have the target already are left out.

    Args:
        start: ``float32[h, w, C]``.
        bounds: of every component, in grey levels.
        leave: whose classes are left, if untargeted.
    """
    if targeted:
        targets = torch.unique(attacker.labels, dim=0)
        goals = [target.expand_as(attacker.labels) for target in targets]
        used = [~_same(attacker.labels, goal) for goal in goals]
    else:
        targets = None
        goals = [attacker.labels if leave is Labels.TRUE else _predicted(attacker)]
        used = [torch.ones(len(attacker.labels), dtype=torch.bool)]
    objective = ClippedCrossEntropy(targeted)
    learned = [
        _ascend(attacker, goal, rows.nonzero()[:, 0], start, apply, bounds, schedule, objective)
        for goal, rows in zip(goals, used, strict=True)
    ]
    return Learned(
        torch.stack([perturbation for perturbation, _ in learned]),
        targets,
        next((ailment for _, ailment in learned if ailment is not None), None),
    )


def commonest_shape(images: Sequence[Tensor]) -> tuple[int, ...]:
    """``(H, W, C)`` that most of the attacker's images have; of equals, the first."""
    if not images:
        raise AttackProblem("it is learned on images of the attacker's own; give some")
    return tuple(Counter(image.shape for image in images).most_common(1)[0][0])


def resized(perturbations: Tensor, height: int, width: int, channels: int) -> Tensor:
    """``[R, height, width, channels]`` from ``[R, h, w, C]``, bilinear; channels that do not fit
    become their mean. Every value is an average of given ones, so no bound is left."""
    if perturbations.shape[3] != channels:
        perturbations = perturbations.mean(dim=3, keepdim=True).expand(-1, -1, -1, channels)
    if perturbations.shape[1:3] == (height, width):
        return perturbations
    planes = perturbations.permute(0, 3, 1, 2)
    return functional.interpolate(
        planes, (height, width), mode="bilinear", align_corners=False, antialias=True
    ).permute(0, 2, 3, 1)


def _ascend(
    attacker: Attacker,
    labels: Tensor,
    used: Tensor,
    start: Tensor,
    apply: Apply,
    bounds: tuple[float, float],
    schedule: Schedule,
    objective: Objective,
) -> tuple[Tensor, Ailment | None]:
    """The perturbation learned on the images ``used``, and what was wrong with a step that had no
    gradient to follow though an image was left to fool."""
    shared, ailment = start, None
    epochs = [
        (rows, rng)
        for epoch in range(schedule.epochs)
        for rng in [np.random.default_rng((attacker.seed, epoch))]
        for rows in _batches(attacker.pixels, used.tolist(), schedule.batch, rng)
    ]
    for number, (rows, rng) in enumerate(epochs):
        pixels = torch.stack([attacker.pixels[row] for row in rows])
        # one copy an image, so that an image without a finite gradient can be left out
        copies = shared.expand(len(rows), -1, -1, -1).clone().requires_grad_()
        logits = at(attacker.model, torch.tensor(rows))(apply(copies, pixels, rng))
        value = objective(logits, labels[rows])
        if not value.requires_grad:
            refuse(GradientFinding(Ailment.NONE, tuple(rows)))
        (gradient,) = torch.autograd.grad(value.sum(), copies)
        with torch.no_grad():
            finite = gradient.flatten(1).isfinite().all(dim=1)
            direction = gradient[finite].sum(dim=0).sign()
            if not finite.any():
                ailment = Ailment.NOT_FINITE
            elif (
                not direction.any()
                and not reached(logits, labels[rows], targeted=objective.targeted).all()
            ):
                ailment = Ailment.ZERO
            step = schedule.step * (1 - number / len(epochs))
            shared = (shared + step * direction).clamp(*bounds)
    return shared, ailment


def _batches(
    images: Sequence[Tensor], used: Sequence[int], batch: int, rng: np.random.Generator
) -> list[list[int]]:
    """All the images once, in random order, those of one shape together."""
    by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for row in rng.permutation(np.asarray(used, dtype=np.int64)).tolist():
        by_shape[images[row].shape].append(row)
    batches = [
        rows[start : start + batch]
        for rows in by_shape.values()
        for start in range(0, len(rows), batch)
    ]
    return [batches[index] for index in rng.permutation(len(batches))]


def _predicted(attacker: Attacker) -> Tensor:
    """What the model answers on the attacker's clean images."""
    answers = []
    with torch.no_grad():
        for row, image in enumerate(attacker.pixels):
            logits = at(attacker.model, torch.tensor([row]))(image[None])
            answers.append(decisions(logits, multilabel=attacker.labels.ndim == 2))
    return torch.cat(answers)


def _same(labels: Tensor, other: Tensor) -> Tensor:
    """``bool[N]``: all of an image's label is equal."""
    return (labels == other).view(len(labels), -1).all(dim=1)
