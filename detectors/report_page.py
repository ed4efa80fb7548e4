"""The evaluation as one page, ``evaluation.html``, that needs nothing beside it."""

from __future__ import annotations

import base64
import io
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from detectors import heat, plots
from detectors.evaluation import (
    KNOWLEDGE,
    AttackResult,
    Curve,
    Evaluation,
    Knowledge,
    ShiftResult,
    Subgroup,
    worst,
)
from detectors.heat import Heat
from detectors.samples import Pixels
from detectors.wording import (
    ATTACKERS,
    Standing,
    budget,
    number,
    percent,
    plain_percent,
    standing,
    titled,
)
from detectors.worst_cases import WorstCases

TEMPLATE = "evaluation.html"
WEAK = 0.9
"""Accuracy below which the page calls a classifier, or its diagnosis of a class, weak."""
SIDE = 240
"""Longest side of an image on the page, in pixels."""


def page_html(evaluation: Evaluation, cases: WorstCases) -> str:
    """HTML with images and plots inside; every text from outside is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": lambda estimate: unbroken(percent(estimate)),
        "plain_percent": lambda value: unbroken(plain_percent(value)),
        "number": number,
        "budget": budget,
        "pixels": pixels_uri,
    }
    return environment.get_template(TEMPLATE).render(
        e=evaluation,
        cases=cases,
        weaknesses=weaknesses(evaluation),
        attackers=[attacker(evaluation, knowledge) for knowledge in KNOWLEDGE],
        adversarial=standing(evaluation.clean.adversarial, evaluation.targets.adversarial),
        quality=standing(evaluation.clean.quality, evaluation.targets.quality),
        standings=Standing,
        harm_plot=_plot(
            partial(plots.harm_over_epsilon, evaluation),
            "Attack success (dashed), undetected harm with its interval (solid) and its target "
            "(dotted) over epsilon. The tables below have the numbers",
            "harm",
        ),
        curve_plots=curve_plots(evaluation),
        calibration_plot=_plot(
            partial(plots.calibration, evaluation),
            "Share of clean test images whose p-value is at most alpha, over alpha",
            "calibration",
        ),
        detector_heat=detector_heat(evaluation),
        shift_heat=shift_heat(evaluation.shifts),
        subgroups=by_division(evaluation.subgroups),
        subgroup_scale=max(
            (s.adversarial.high for s in evaluation.subgroups if s.images), default=1.0
        ),
        perturbation=perturbation,
        titled=titled,
        finite=math.isfinite,
    )


def unbroken(text: str) -> str:
    """No line ends between a number and its unit."""
    return text.replace(" %", "\u00a0%")


@dataclass(frozen=True, slots=True)
class Attacker:
    """One kind of attacker at a glance."""

    knowledge: Knowledge
    description: str
    results: tuple[AttackResult, ...]
    families: tuple[str, ...]
    epsilons: tuple[float, ...]
    worst: AttackResult | None
    strongest: float
    """Highest success, guard or no guard."""
    standing: Standing


def attacker(evaluation: Evaluation, knowledge: Knowledge) -> Attacker:
    """What such an attacker achieved."""
    results = evaluation.known_as(knowledge)
    most = worst(results)
    return Attacker(
        knowledge=knowledge,
        description=ATTACKERS[knowledge],
        results=results,
        families=tuple(dict.fromkeys(a.attack for a in results)),
        epsilons=tuple(sorted({a.epsilon for a in results if a.epsilon > 0})),
        worst=most,
        strongest=max((a.success.value for a in results), default=math.nan),
        standing=standing(most.undetected_harm, evaluation.targets.undetected_harm)
        if most
        else Standing.UNMEASURED,
    )


def weaknesses(evaluation: Evaluation) -> list[str]:
    """Plain sentences about the guarded classifier; empty where there is nothing to warn of."""
    accuracy = evaluation.clean.accuracy
    classes = [s for s in evaluation.subgroups if s.by == "true class"]
    sentences = []
    commonest = max(classes, key=lambda s: s.images, default=None)
    if commonest and accuracy.low <= (always := commonest.images / evaluation.clean.images):
        sentences.append(
            f"Weak classifier: not surely better than always answering {commonest.name}, which is "
            f"right on {plain_percent(always)}."
        )
    elif accuracy.value < WEAK:
        sentences.append("Weak classifier.")
    sentences += [
        f"Weak on {s.name}: {percent(s.accuracy)} of {s.images} diagnosed right."
        for s in classes
        if s.accuracy.value < WEAK
    ]
    return sentences


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure and what it shows."""

    svg: Markup
    caption: str


def _plot(draw: plots.Draw, caption: str, name: str) -> Plot:
    return Plot(Markup(plots.inline(draw, caption, name)), caption)  # noqa: S704  # our own SVG, its texts escaped


def curve_plots(evaluation: Evaluation) -> list[Plot]:
    """For each kind of attacker: the fused score against each attack, then each detector against
    all of them together."""
    results = []
    for knowledge in KNOWLEDGE:
        known = [c for c in evaluation.curves if c.knowledge == knowledge]
        for kind, chosen, caption in (
            (
                "attack",
                [(c.attack, c) for c in known if c.attack is not None and c.score == "fused"],
                "The fused score against each attack",
            ),
            (
                "score",
                [(c.score, c) for c in known if c.attack is None],
                "The fused score and each detector against all these attacks together",
            ),
        ):
            for part, columns in enumerate(_in_columns(chosen)):
                results.append(
                    _plot(
                        partial(plots.roc_and_det, columns),
                        f"{caption}. Attacker: {ATTACKERS[knowledge]}.",
                        f"curves-{knowledge}-{kind}-{part}",
                    )
                )
    return results


def _in_columns(named: list[tuple[str, Curve]]) -> list[list[list[tuple[str, Curve]]]]:
    """Curves by epsilon, as many epsilons as fit into one figure at a time."""
    by_epsilon: dict[float, list[tuple[str, Curve]]] = defaultdict(list)
    for name, curve in named:
        by_epsilon[curve.epsilon].append((name, curve))
    columns = [by_epsilon[epsilon] for epsilon in sorted(by_epsilon)]
    return [columns[i : i + plots.ACROSS] for i in range(0, len(columns), plots.ACROSS)]


def detector_heat(evaluation: Evaluation) -> list[Heat]:
    """Attacks by detectors: AUC, then TPR at 1 % FPR. Attacks without a success are left out."""
    names = (*evaluation.detectors, "fused")
    head = ("attack", "ε /255", "attacker", *names)
    aucs, rates = [], []
    for a in evaluation.attacks:
        found = [a.scores[name].successful for name in names]
        if math.isnan(found[-1].auc.value):
            continue
        label = (a.attack, budget(a.epsilon), a.knowledge.replace("_", " "))
        aucs.append((label, tuple(heat.by_auc(d.auc.value) for d in found)))
        rates.append((label, tuple(heat.by_rate(d.tpr[1].value) for d in found)))
    return [
        Heat("AUC: successful attacks against clean test images", head, tuple(aucs)),
        Heat(
            "Share of successful attacks detected at a realised false-positive rate of 1 %",
            head,
            tuple(rates),
        ),
    ]


def shift_heat(shifts: Iterable[ShiftResult]) -> Heat:
    """Shifts by severity: share flagged by the adversarial route, then by the quality route."""
    by_name: dict[str, dict[float, ShiftResult]] = defaultdict(dict)
    for shift in shifts:
        by_name[shift.shift][shift.severity] = shift
    severities = sorted({s for found in by_name.values() for s in found})
    return Heat(
        "Share of shifted images flagged, in %, at the bundle's own levels",
        ("shift", *(f"{s:g}" for s in severities)),
        tuple(
            (
                (name,),
                tuple(
                    heat.by_alarms(getattr(found[s], route).value if s in found else math.nan)
                    for route in ("adversarial", "quality")
                    for s in severities
                ),
            )
            for name, found in by_name.items()
        ),
    )


def by_division(subgroups: Iterable[Subgroup]) -> dict[str, list[Subgroup]]:
    """Subgroups under what divides them."""
    divisions: dict[str, list[Subgroup]] = defaultdict(list)
    for subgroup in subgroups:
        divisions[subgroup.by].append(subgroup)
    return dict(divisions)


@dataclass(frozen=True, slots=True)
class Perturbation:
    """A change made visible: mid-grey is none."""

    pixels: Pixels
    gain: float
    largest: int
    """Grey levels."""


def perturbation(clean: Pixels, attacked: Pixels) -> Perturbation | None:
    """The difference, so amplified that the largest change fills the range; None for equal images
    and for images of different sizes."""
    if clean.shape != attacked.shape:
        return None
    change = attacked.astype(np.int16) - clean.astype(np.int16)
    largest = int(np.abs(change).max())
    if largest == 0:
        return None
    gain = 127 / largest
    return Perturbation((127.5 + gain * change).astype(np.uint8), gain, largest)


def pixels_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """``uint8[H, W, 1 or 3]`` as a PNG in a data URI, made smaller where it is large."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
