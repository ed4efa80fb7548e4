"""Ma et al. (2021) on one classifier: attack it, and hand what it answers to the analyses.

What is found is ``detectors.reproduction.findings``; the page is written there as well.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from attacks.campaign import shifted
from attacks.paper_grid import DETECTED_AT, GRID, Swept, detection_attacks, grid, strike, sweep
from attacks.registry import named
from attacks.spec import AttackSpec
from detectors.evaluation import Estimate
from detectors.fit import tap_widths
from detectors.guard_data import draw_evenly
from detectors.judgement import share
from detectors.reproduction.class_activation import ClassActivation, class_activation
from detectors.reproduction.detection import Attempted, detection_null, detections
from detectors.reproduction.feature_plane import feature_plane
from detectors.reproduction.findings import (
    Array,
    Attack,
    ClassCount,
    Classifier,
    Modality,
    Reasons,
    Views,
    performance,
)
from detectors.reproduction.loss_landscape import EPSILONS, loss_landscape
from detectors.reproduction.reading import read
from detectors.reproduction.saliency import saliency, spread
from detectors.samples import Measured, Samples, joined
from models.diagnostic import DiagnosticModel
from models.load import model_digest, victim_of
from models.victim import Victim

Advance = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

BENIGN = "sign_noise"
"""The benign change that stands in an attack's place: one grey level up or down at random."""
COUNTED = ("fgsm", "pgd")
"""Attacks of the class-count experiment."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    images: int = 100
    """Test images attacked over all epsilons."""
    detection_images: int = 100
    """Test images, diagnosed right, that detectors are judged on."""
    fit_images: int = 100
    """Other images, diagnosed right, that they are fitted on."""
    epsilons: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: GRID)
    viewed: int = 16
    """Images behind landscapes and activations."""
    maps: int = 4
    """Saliency maps shown."""
    confidence: float = 0.99
    """Of one model's null test."""
    show_images: bool = False
    """Whether the page may show a test image."""
    seed: int = 0
    device: str = "cpu"
    cache: Path | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """A classifier and the images it is tried on. It was trained on the patients of neither."""

    model: DiagnosticModel
    second: DiagnosticModel
    """Of the same classes, trained independently."""
    data: str
    origin: str
    test: Samples
    """The whole clean test split."""
    reference: Samples
    """All other images that it was not trained on: some of them fit detectors."""


def examine(subject: Subject, plan: Plan, advance: Advance = lambda *_: None) -> Modality:
    """Everything about one classifier. Raises ``EvaluationProblem`` for too few images."""
    model, test = subject.model, subject.test
    name = model.spec.name
    victim = victim_of(model, plan.device)
    widths = tap_widths(model)
    clean = read(model, test.images, _told(advance, f"{name}: reading", len(test)))
    told = _told(advance, f"{name}: reading reference images", len(subject.reference))
    benign = read(model, subject.reference.images, told)
    # before the hours of attacks: without it there will be no page
    null = detection_null(
        joined([benign, clean]),
        np.concatenate([subject.reference.labels, test.labels]),
        (*subject.reference.groups, *test.groups),
        widths,
        seed=plan.seed,
        confidence=plan.confidence,
    )
    null.require(name)
    drawn = draw_evenly(test, plan.images, plan.seed)
    judged = draw_evenly(_right(test, clean), plan.detection_images, plan.seed)
    fitting = draw_evenly(_right(subject.reference, benign), plan.fit_images, plan.seed)
    at_one = detection_attacks()

    def swept(part: Samples, specs: Sequence[AttackSpec], what: str) -> tuple[Swept, ...]:
        told = _told(advance, f"{name}: {what}", len(part) * len(specs))
        return _swept(model, victim, part, specs, plan, told)

    learnt = swept(fitting, at_one, "attacking reference images at 1/255")
    struck = swept(judged, at_one, "attacking test images at 1/255")
    over = swept(drawn, grid(plan.epsilons), "attacking over ε")
    noise = shifted(judged, BENIGN, 1, plan.seed)
    on_test = {s.spec.name: s.floats for s in struck} | {BENIGN: read(model, noise.images)}
    tried = Attempted(_measured(judged, test, clean), judged.labels, judged.groups, on_test)
    known = Attempted(
        _measured(fitting, subject.reference, benign),
        fitting.labels,
        fitting.groups,
        {s.spec.name: s.floats for s in learnt},
    )
    advance(f"{name}: detectors and views", 0, 2)
    found = detections(known, tried, widths, plan.seed)
    advance(f"{name}: detectors and views", 1, 2)
    reasons, views = _look(subject, plan, victim, drawn, clean, tried, widths)
    advance(f"{name}: detectors and views", 2, 2)
    return Modality(
        classifier=_classifier(subject, clean),
        attacked_images=len(drawn),
        attacked_clean=performance(_measured(drawn, test, clean), drawn.labels, drawn.groups),
        attacks=tuple(_attack(s, drawn) for s in over),
        fit_images=len(known),
        detections=found,
        null=null,
        reasons=reasons,
        views=views,
    )


def count_classes(
    models: Sequence[DiagnosticModel],
    data: str,
    clean: Samples,
    classes: Sequence[str],
    plan: Plan,
    advance: Advance = lambda *_: None,
) -> tuple[ClassCount, ...]:
    """Classifiers of ever more of one data set's classes under attack.

    Args:
        models: fewest classes first; each one's classes are among the next one's.
        clean: test images; their labels index ``classes``.
    """
    fewest = set(models[0].spec.classes)
    results = []
    specs = [s for s in grid(plan.epsilons) if s.name in COUNTED and s.budget <= 1]
    for model in models:
        place = {name: i for i, name in enumerate(model.spec.classes)}
        names = np.array([classes[label] for label in clean.labels])
        part = clean.rows(np.flatnonzero(np.isin(names, list(place))))
        names = np.array([classes[label] for label in part.labels])
        part = replace(part, labels=np.array([place[name] for name in names], dtype=np.int64))
        what = f"{data}: {len(place)} classes"
        told = _told(advance, what, len(part) * len(specs))
        made = _swept(model, victim_of(model, plan.device), part, specs, plan, told)
        answered = read(model, part.images)
        every = np.arange(len(part))
        sets = {"images of all its classes": every}
        if set(place) != fewest:
            title = f"images of the first {len(fewest)} classes"
            sets[title] = np.flatnonzero(np.isin(names, list(fewest)))
        for title, rows in sets.items():
            judged = part.rows(rows)
            results.append(
                ClassCount(
                    data,
                    model.spec.classes,
                    title,
                    len(judged),
                    performance(answered.rows(rows), judged.labels, judged.groups),
                    tuple(_attack(_rows(s, rows), judged) for s in made),
                )
            )
    return tuple(results)


def _swept(
    model: DiagnosticModel,
    victim: Victim,
    part: Samples,
    specs: Sequence[AttackSpec],
    plan: Plan,
    told: Callable[[int], None],
) -> tuple[Swept, ...]:
    return sweep(
        model,
        victim,
        model_digest(model),
        part,
        specs,
        seed=plan.seed,
        device=plan.device,
        cache=plan.cache,
        progress=told,
    )


def _told(advance: Advance, what: str, total: int) -> Callable[[int], None]:
    done = 0

    def more(images: int) -> None:
        nonlocal done
        done += images
        advance(what, done, total)

    return more


def _right(samples: Samples, measured: Measured) -> Samples:
    return samples.rows(np.flatnonzero(measured.predicted == samples.labels))


def _measured(part: Samples, whole: Samples, measured: Measured) -> Measured:
    """The rows of ``whole``'s measurement that ``part`` was drawn from."""
    row = {key: i for i, key in enumerate(whole.keys)}
    return measured.rows(np.array([row[key] for key in part.keys], dtype=np.intp))


def _rows(swept: Swept, rows: np.ndarray) -> Swept:
    files = None if swept.files is None else swept.files.rows(rows)
    return Swept(swept.spec, swept.floats.rows(rows), files)


def _attack(swept: Swept, clean: Samples) -> Attack:
    return Attack(
        swept.spec.name,
        swept.spec.budget,
        performance(swept.floats, clean.labels, clean.groups),
        None if swept.files is None else performance(swept.files, clean.labels, clean.groups),
    )


def _classifier(subject: Subject, clean: Measured) -> Classifier:
    test, spec = subject.test, subject.model.spec
    right = clean.predicted == test.labels
    recall: dict[str, Estimate] = {}
    for c, name in enumerate(spec.classes):
        rows = np.flatnonzero(test.labels == c)
        recall[name] = share(right[rows], [test.groups[i] for i in rows])
    return Classifier(
        name=spec.name,
        data=subject.data,
        classes=spec.classes,
        origin=subject.origin,
        clean=performance(clean, test.labels, test.groups),
        recall=recall,
        images=len(test),
        patients=len(set(test.groups)),
        commonest=float(np.bincount(test.labels).max() / len(test)),
    )


class _Batch(NamedTuple):
    rows: list[int]
    pixels: Tensor
    labels: Tensor


def _batches(samples: Samples, device: str, size: int = 8) -> Iterator[_Batch]:
    """Images of one size together, the size of the first image first."""
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, image in enumerate(samples.images):
        by_shape[image.shape].append(i)
    for rows in by_shape.values():
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            pixels = np.stack([samples.images[i] for i in chosen])
            yield _Batch(
                chosen,
                torch.from_numpy(pixels).to(device).float(),
                torch.from_numpy(samples.labels[chosen]).to(device),
            )


def _look(
    subject: Subject,
    plan: Plan,
    victim: Victim,
    drawn: Samples,
    clean: Measured,
    tried: Attempted,
    widths: Sequence[int],
) -> tuple[Reasons, Views]:
    maps: list[Array] = []
    spreads: list[Tensor] = []
    for batch in _batches(drawn, plan.device):
        found = saliency(victim, batch.pixels, batch.labels).cpu()
        spreads.append(spread(found))
        maps += [np.asarray(m) for m in found if not maps or m.shape == maps[0].shape]
    row = {key: i for i, key in enumerate(subject.test.keys)}
    right = clean.predicted == subject.test.labels
    shown = [i for i, key in enumerate(drawn.keys) if right[row[key]]][: plan.viewed]
    viewed = drawn.rows(np.array(shown, dtype=np.intp))
    second = victim_of(subject.second, plan.device)
    landscape = np.concatenate(
        [
            loss_landscape(victim, second, b.pixels, b.labels).cpu().numpy()
            for b in _batches(viewed, plan.device)
        ]
    ).mean(axis=0)
    one = EPSILONS.index(1.0)
    cams = _activations(subject.model, victim, viewed, plan)
    features = [m.taps[:, -widths[-1] :] for m in (tried.clean, tried.attacked["pgd"])]
    plane = feature_plane(np.concatenate(features).astype(np.float64), plan.seed)
    chosen = next((i for i, c in enumerate(cams) if c.fooled), 0)
    example = cams[chosen]
    reasons = Reasons(
        spread=_median(torch.cat(spreads).tolist()),
        landscape_images=len(viewed),
        second=performance(
            read(subject.second, subject.test.images), subject.test.labels, subject.test.groups
        ),
        loss=(float(landscape[0, 0]), float(landscape[one, 0]), float(landscape[0, one])),
        grad_cam_moved=_median([c.moved for c in cams]),
        mean_map_change=_median([c.changed for c in cams]),
        explained=plane.explained,
    )
    views = Views(
        saliency=np.stack(maps[: plan.maps]),
        landscape=landscape,
        grad_cam=(example.before[0], example.after[0]),
        mean_map=(example.before[1], example.after[1]),
        plane=plane,
        attacked=np.repeat([False, True], len(tried)),
        pixels=viewed.images[chosen].astype(np.float32) if plan.show_images else None,
    )
    return reasons, views


def _median(values: Sequence[float]) -> float:
    """Of those that are numbers; NaN if none is."""
    known = [value for value in values if not math.isnan(value)]
    return median(known) if known else math.nan


@dataclass(frozen=True, slots=True)
class _Activation:
    """One image's Grad-CAM and mean map, clean and attacked."""

    before: tuple[Array, Array]
    after: tuple[Array, Array]
    fooled: bool

    @property
    def moved(self) -> float:
        """Half the L1 distance of the Grad-CAMs, each scaled to sum 1; NaN if one is empty."""
        (a, _), (b, _) = self.before, self.after
        if a.sum() == 0 or b.sum() == 0:
            return float("nan")
        return float(np.abs(a / a.sum() - b / b.sum()).sum() / 2)

    @property
    def changed(self) -> float:
        """L1 change of the mean map over its L1 norm."""
        (_, a), (_, b) = self.before, self.after
        return float(np.abs(b - a).sum() / max(np.abs(a).sum(), 1e-12))


def _activations(
    model: DiagnosticModel, victim: Victim, viewed: Samples, plan: Plan
) -> list[_Activation]:
    results: dict[int, _Activation] = {}
    spec = named("pgd", DETECTED_AT)
    for batch in _batches(viewed, plan.device):
        images = np.stack([viewed.images[i] for i in batch.rows])
        keys = [viewed.keys[i] for i in batch.rows]
        labels = viewed.labels[batch.rows]
        moved = strike(victim, spec, images, labels, keys, plan.seed, plan.device)
        pair: list[tuple[ClassActivation, Tensor]] = []
        for pixels in (batch.pixels, torch.from_numpy(moved).to(plan.device)):
            with torch.no_grad():
                answered = model(pixels).argmax(dim=1)
            pair.append((class_activation(model, pixels, answered), answered))
        (before, first), (after, then) = pair
        for k, i in enumerate(batch.rows):
            a, b = (
                (c.grad_cam[k].cpu().numpy(), c.mean_map[k].cpu().numpy()) for c in (before, after)
            )
            results[i] = _Activation(a, b, bool(first[k] != then[k]))
    return [results[i] for i in sorted(results)]
