"""Signs that a model hides its gradient, so that an attack fails where it should not.

After Athalye, Carlini and Wagner (2018), arXiv 1802.00420, section 3, and Carlini et al. (2019),
arXiv 1902.06705, section 5. A success rate is worth little while one of these stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import permutations
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attacks.access import at
from attacks.ball import WHITE, Norm
from attacks.black_box.square import square
from attacks.objective import (
    CrossEntropy,
    LogitsRatio,
    Model,
    decisions,
    gaps,
    reached,
)
from attacks.spec import AttackSpec, Kind, Need
from attacks.white_box.apgd import apgd, loss_on
from attacks.white_box.fgsm import fgsm

TOLERANCE = 0.02
"""Share of the images that chance may turn against the rule."""
STEPS = 20
QUERIES = 100

Flags = npt.NDArray[np.bool_]


class Symptom(StrEnum):
    """What was seen."""

    RANDOM = "random answers"
    MIXED = "images mix"
    PROBABILITIES = "probabilities"
    LOGITS_NOT_FINITE = "logits not finite"
    NO_GRADIENT = "no gradient"
    GRADIENT_NOT_FINITE = "gradient not finite"
    GRADIENT_ZERO = "gradient zero"
    LOSS_SATURATED = "loss saturated"
    BLACK_BOX_WINS = "black box wins"
    FEWER_STEPS_WIN = "fewer steps win"
    SMALLER_BUDGET_WINS = "smaller budget wins"
    UNBOUNDED_FAILS = "unbounded fails"


_ADVICE: Mapping[Symptom, str] = {
    Symptom.RANDOM: "switch off dropout and random preprocessing (model.eval()), or attack the "
    "mean of several passes",
    Symptom.MIXED: "switch batch normalisation to its stored statistics (model.eval())",
    Symptom.PROBABILITIES: "give the logits from before the softmax or sigmoid: after it gradients "
    "vanish",
    Symptom.LOGITS_NOT_FINITE: "look for a division by zero, a log of 0 or half precision",
    Symptom.NO_GRADIENT: "make the path from pixels to logits of torch operations, or use attacks "
    "that ask for logits or decisions only",
    Symptom.GRADIENT_NOT_FINITE: "look for a division by zero, a log or a square root of 0 in the "
    "model or its preprocessing",
    Symptom.GRADIENT_ZERO: "look for rounding, clipping, thresholds or a saturated last layer, and "
    "attack a copy without it, or use attacks that need no gradient",
    Symptom.LOSS_SATURATED: "use a loss of logits: cw_linf, apgd_dlr or apgd_t",
    Symptom.BLACK_BOX_WINS: "do not trust the gradient attacks here; look for operations without a "
    "useful derivative, and report the black-box result",
    Symptom.FEWER_STEPS_WIN: "try smaller steps and restarts; if it stays, the gradient misleads",
    Symptom.SMALLER_BUDGET_WINS: "a larger budget contains the smaller one: try more steps and "
    "restarts; if it stays, the gradient misleads",
    Symptom.UNBOUNDED_FAILS: "every image can become any other here, so the attack is broken or "
    "the gradient hidden",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that makes results of attacks untrustworthy."""

    symptom: Symptom
    what: str
    """What was seen, and where."""
    rows: tuple[int, ...] = ()
    """The images concerned, as places in the batch; none where it is the model as a whole."""

    @property
    def advice(self) -> str:
        """What to do."""
        return _ADVICE[self.symptom]

    def __str__(self) -> str:
        return f"{self.what}: {self.advice}."


@dataclass(frozen=True, slots=True, eq=False)
class RunResult:
    """How one attack fared on N images, the same and in the same order as the runs beside it."""

    title: str
    method: str
    fooled: Flags
    """``bool[N]``."""
    norm: Norm
    epsilon: float | None
    """None without a budget; such a run is not compared."""
    steps: int
    """Gradient steps, or queries of a black-box attack."""
    gradients: bool
    """Whether it follows the attacked model's gradient."""
    targeted: bool = False
    whole: bool = True
    """Whether it seeks nothing but another answer, over all of its ball: not one that also evades
    a guard, keeps to a few frequencies or to one perturbation for all images, or whose steps do
    not reach the ball's edge."""

    @classmethod
    def of(cls, spec: AttackSpec, fooled: Flags) -> Self:
        """Of a run of ``spec``. Smallest changes have no budget to compare at."""
        steps: int = getattr(spec, "steps", getattr(spec, "queries", 1))
        return cls(
            spec.title,
            spec.method,
            fooled,
            spec.norm,
            spec.epsilon if spec.kind is Kind.BUDGET else None,
            steps,
            Need.GRADIENTS in spec.needs,
            spec.targeted,
            _seeks_the_whole_ball(spec, steps),
        )

    @property
    def goal(self) -> tuple[Norm, bool]:
        """What must agree for two runs to be compared at all."""
        return self.norm, self.targeted


def _seeks_the_whole_ball(spec: AttackSpec, steps: int) -> bool:
    plain = type(spec).__module__.startswith("attacks.white_box.")
    reach: float = steps * getattr(spec, "step_fraction", 1.0)
    return plain and reach >= 1


def self_check(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    seeds: Sequence[int],
    *,
    epsilon: float = 1.0,
) -> tuple[Finding, ...]:
    """Look at the model's answers and gradients, then attack it in small.

    About 300 forward and 90 backward passes an image, fewer where attacks succeed early. What is
    attacked is the model's own answer on each image, so that wrong diagnoses tell as much.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255. Some ten images are enough.
        labels: ``int64[N]`` or ``bool[N, L]``; only their kind matters.
        seeds: one non-negative integer an image.
        epsilon: L-inf budget in grey levels. One where attacks neither always nor never succeed
            tells most.
    """
    with torch.no_grad():
        logits = model(pixels)
    answers = decisions(logits, multilabel=labels.ndim == 2)
    found = (
        *_of_answers(model, pixels, logits, multilabel=labels.ndim == 2),
        *_of_gradients(model, pixels, answers),
    )
    if any(finding.symptom is Symptom.LOGITS_NOT_FINITE for finding in found):
        return found
    runs = (
        *small_runs(model, pixels, answers, seeds, epsilon),
        *small_runs(model, pixels, answers, seeds, WHITE),
    )
    return (*found, *compare(runs))


def probe(
    model: Model, pixels: Tensor, labels: Tensor, seeds: Sequence[int]
) -> tuple[Finding, ...]:
    """Attack with every grey level allowed, in one step and in many, with the gradient and without:
    the many must reach every image.

    Args:
        labels: ``int64[N]`` or ``bool[N, L]``: to leave.
    """
    return compare(small_runs(model, pixels, labels, seeds, WHITE))


def small_runs(
    model: Model, pixels: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float
) -> tuple[RunResult, ...]:
    """One gradient step, ``STEPS`` of them on either loss, and ``QUERIES`` without a gradient, at
    an L-inf budget in grey levels."""
    one_step = fgsm(model, pixels, labels, epsilon=epsilon, on_finding=lambda _: None)
    many_steps = apgd(
        model,
        pixels,
        labels,
        epsilon=epsilon,
        steps=STEPS,
        seeds=seeds,
        losses=[loss_on(CrossEntropy(), labels), loss_on(LogitsRatio(), labels)],
        until_fooled=True,
        on_finding=lambda _: None,
    )
    asking = square(model, pixels, labels, epsilon=epsilon, queries=QUERIES, seeds=seeds)

    def result(method: str, attacked: Tensor, steps: int, gradients: bool) -> RunResult:
        with torch.no_grad():
            fooled = reached(model(attacked), labels, targeted=False)
        title = f"{method}-{epsilon:g}"
        return RunResult(title, method, fooled.cpu().numpy(), Norm.LINF, epsilon, steps, gradients)

    return (
        result("fgsm", one_step, 1, True),
        result("apgd", many_steps, STEPS, True),
        result("square", asking, QUERIES, False),
    )


def compare(results: Sequence[RunResult]) -> tuple[Finding, ...]:
    """What runs on the same images say about each other. Raises ``ValueError`` if their numbers of
    images differ."""
    if len({len(result.fooled) for result in results}) > 1:
        raise ValueError("these runs are of different numbers of images; compare the same images")
    runs = [run for run in results if run.epsilon is not None and len(run.fooled)]
    return (*_black_box_wins(runs), *_less_wins(runs), *_unbounded_fails(runs))


def _black_box_wins(runs: Sequence[RunResult]) -> Iterator[Finding]:
    for asking in runs:
        guided = [
            run.fooled
            for run in runs
            if run.gradients and run.goal == asking.goal and run.epsilon == asking.epsilon
        ]
        if asking.gradients or not guided:
            continue
        alone = asking.fooled & ~np.any(guided, axis=0)
        if alone.mean() > TOLERANCE:
            yield Finding(
                Symptom.BLACK_BOX_WINS,
                f"{asking.title} fools {_count(alone)} that no gradient attack of the same budget "
                "fools",
                _rows(alone),
            )


def _less_wins(runs: Sequence[RunResult]) -> Iterator[Finding]:
    """Fewer steps at the same budget, or the same steps at a smaller one."""
    for less, more in permutations((run for run in runs if run.gradients), 2):
        if less.goal != more.goal or less.epsilon is None or more.epsilon is None:
            continue
        alike = less.method == more.method
        if less.epsilon == more.epsilon:
            comparable = less.steps < more.steps and (alike or less.steps == 1) and more.whole
            symptom = Symptom.FEWER_STEPS_WIN
        else:
            comparable = less.epsilon < more.epsilon and alike and less.steps == more.steps
            # one step of a large budget may well jump over the class it made for
            comparable &= less.steps > 1
            symptom = Symptom.SMALLER_BUDGET_WINS
        if comparable and less.fooled.mean() - more.fooled.mean() > TOLERANCE:
            yield Finding(
                symptom,
                f"{less.title} in {_steps(less)} fools {_count(less.fooled)}, {more.title} in "
                f"{_steps(more)} only {more.fooled.sum()}",
                _rows(less.fooled & ~more.fooled),
            )


def _unbounded_fails(runs: Sequence[RunResult]) -> Iterator[Finding]:
    """Together, the iterative gradient attacks that may change everything must always succeed."""
    for targeted in (False, True):
        free = [
            run
            for run in runs
            if run.gradients
            and run.steps > 1
            and run.goal == (Norm.LINF, targeted)
            and run.epsilon is not None
            and run.epsilon >= WHITE
        ]
        if free:
            held = ~np.any([run.fooled for run in free], axis=0)
            if held.any():
                titles = ", ".join(run.title for run in free)
                yield Finding(
                    Symptom.UNBOUNDED_FAILS,
                    f"with all grey levels allowed {titles} fails on {_count(held)}",
                    _rows(held),
                )


def _of_answers(
    model: Model, pixels: Tensor, logits: Tensor, *, multilabel: bool
) -> Iterator[Finding]:
    """Of ``logits``, ``[N, K]``, the answer to ``pixels``."""
    broken = ~logits.isfinite().all(dim=1)
    if broken.any():
        yield Finding(
            Symptom.LOGITS_NOT_FINITE,
            f"the logits are not finite on {_count(broken)}",
            _rows(broken),
        )
        return
    if not len(pixels):
        return
    scale = logits.abs().amax().clamp(min=1e-12)
    first = torch.zeros(1, dtype=torch.int64, device=pixels.device)
    with torch.no_grad():
        again = (model(pixels) - logits).abs().amax(dim=1) / scale
        # alone, with nobody to mix with; one image is enough to tell
        alone = at(model, first)(pixels[:1]) - logits[:1]
    differs = again > 1e-4
    if differs.any():
        yield Finding(
            Symptom.RANDOM,
            f"asked twice, the model gives other logits on {_count(differs)}",
            _rows(differs),
        )
    # batches of other sizes are summed in another order, hence more room than above
    elif alone.abs().amax() / scale > 1e-2:
        yield Finding(
            Symptom.MIXED, "an image's logits depend on the other images of its batch", (0,)
        )
    within = bool(((logits >= 0) & (logits <= 1)).all())
    sums_to_one = bool(((logits.sum(dim=1) - 1).abs() < 1e-4).all())
    if within and (sums_to_one or multilabel):
        yield Finding(
            Symptom.PROBABILITIES,
            "all logits lie between 0 and 1" + (" and sum to 1" if sums_to_one else ""),
        )


def _of_gradients(model: Model, pixels: Tensor, labels: Tensor) -> Iterator[Finding]:
    """Of the margin's gradient on the clean images, and where that is well of the loss's."""
    margin = _largest_gradient(model, pixels, lambda logits: gaps(logits, labels).amin(dim=1))
    if margin is None:
        yield Finding(Symptom.NO_GRADIENT, "the logits do not depend on the pixels by torch")
        return
    broken, zero = ~margin.isfinite(), margin == 0
    if broken.any():
        yield Finding(
            Symptom.GRADIENT_NOT_FINITE,
            f"the margin's gradient is not finite on {_count(broken)}",
            _rows(broken),
        )
    if zero.any():
        yield Finding(
            Symptom.GRADIENT_ZERO,
            f"the margin's gradient is exactly 0 on {_count(zero)}",
            _rows(zero),
        )
    loss = _largest_gradient(model, pixels, lambda logits: CrossEntropy()(logits, labels))
    saturated = torch.zeros_like(zero) if loss is None else (loss == 0) & ~zero & ~broken
    if saturated.any():
        yield Finding(
            Symptom.LOSS_SATURATED,
            f"the cross-entropy's gradient is exactly 0 on {_count(saturated)} "
            "whose margin has one",
            _rows(saturated),
        )


def _largest_gradient(
    model: Model, pixels: Tensor, value_of: Callable[[Tensor], Tensor]
) -> Tensor | None:
    """``[N]``: the largest component of the gradient of ``value_of`` the logits at each image; None
    if there is no gradient."""
    x = pixels.detach().requires_grad_()
    value = value_of(model(x))
    if not value.requires_grad:
        return None
    (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
    if gradient is None:
        return None
    return gradient.abs().flatten(1).amax(dim=1)


def _rows(flags: Flags | Tensor) -> tuple[int, ...]:
    here = flags.cpu().numpy() if isinstance(flags, Tensor) else flags
    return tuple(np.flatnonzero(here).tolist())


def _count(flags: Flags | Tensor) -> str:
    return f"{int(flags.sum())} of {len(flags)} images"


def _steps(run: RunResult) -> str:
    return "1 step" if run.steps == 1 else f"{run.steps} steps"
