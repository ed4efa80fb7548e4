"""The images on which guard or model did worst, for a person to look at."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.judgement import HEADLINE_FPR, Attacked, Judgement, threshold
from detectors.samples import Pixels

MOST = 6


@dataclass(frozen=True, slots=True)
class Reading:
    """What model and guard said of one image."""

    pixels: Pixels
    predicted: str
    p: float
    """Of the adversarial route."""
    score: float
    accepted: bool
    """At the bundle's own levels, by both routes."""


@dataclass(frozen=True, slots=True)
class HarmfulImage:
    """An image whose diagnosis an attack changed from right to wrong."""

    case: str
    """A digest: the image's own name may be a patient's."""
    attack: str
    epsilon: float
    knowledge: str
    label: str
    clean: Reading
    attacked: Reading
    undetected: bool
    """Below the threshold that flags 1 % of the clean test images."""


@dataclass(frozen=True, slots=True)
class FalseAlarm:
    """A benign image that the adversarial route flagged."""

    case: str
    origin: str
    label: str
    reading: Reading


@dataclass(frozen=True, slots=True)
class WorstCases:
    """For the page alone: pixels have no place in ``evaluation.json``."""

    harmful: tuple[HarmfulImage, ...] = ()
    """The least suspicious first, one an original."""
    false_alarms: tuple[FalseAlarm, ...] = ()
    """Clean images, the highest score first, then one of each shift."""


def worst_cases(
    clean: Judgement,
    hit: Sequence[tuple[Attacked, Judgement]],
    shifts: Iterable[Judgement],
    row: dict[str, int],
    classes: Sequence[str],
    most: int = MOST,
) -> WorstCases:
    """Choose at most ``most`` of each kind.

    Args:
        row: of each key among the clean test images.
    """
    limit = threshold(clean.readings.fused.astype(float), HEADLINE_FPR)
    candidates = []
    for attacked, found in hit:
        source = np.array([row[key] for key in attacked.samples.keys], dtype=np.intp)
        for i in np.flatnonzero(clean.right[source] & ~found.right).tolist():
            candidates.append((float(found.readings.fused[i]), attacked, found, i))
    candidates.sort(key=lambda candidate: candidate[0])
    harmful: dict[str, HarmfulImage] = {}
    for score, attacked, found, i in candidates:
        if len(harmful) == most:
            break
        key = attacked.samples.keys[i]
        if key not in harmful:
            harmful[key] = HarmfulImage(
                case=digest(key),
                attack=attacked.samples.origin,
                epsilon=attacked.samples.level,
                knowledge=attacked.knowledge,
                label=classes[attacked.samples.labels[i]],
                clean=reading(clean, row[key], classes),
                attacked=reading(found, i, classes),
                undetected=not score > limit,
            )
    return WorstCases(
        tuple(harmful.values()),
        (
            *_alarms(clean, classes, most),
            *[alarm for found in _by_score(shifts) for alarm in _alarms(found, classes, 1)][:most],
        ),
    )


def reading(found: Judgement, i: int, classes: Sequence[str]) -> Reading:
    """Row ``i``."""
    return Reading(
        pixels=found.samples.images[i],
        predicted=classes[int(found.measured.predicted[i])],
        p=float(found.p[i]),
        score=float(found.readings.fused[i]),
        accepted=bool(found.accepted[i]),
    )


def digest(key: str) -> str:
    """Eight hex digits of an image's name."""
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def _alarms(found: Judgement, classes: Sequence[str], most: int) -> list[FalseAlarm]:
    return [
        FalseAlarm(
            case=digest(found.samples.keys[i]),
            origin=found.samples.title,
            label=classes[found.samples.labels[i]],
            reading=reading(found, i, classes),
        )
        for i in _flagged(found)[:most].tolist()
    ]


def _flagged(found: Judgement) -> npt.NDArray[np.intp]:
    rows = np.flatnonzero(found.adversarial)
    return rows[np.argsort(-found.readings.fused[rows], kind="stable")]


def _by_score(shifts: Iterable[Judgement]) -> list[Judgement]:
    """One severity of each shift that raised an alarm: the one with the highest score."""
    highest: dict[str, tuple[float, Judgement]] = {}
    for found in shifts:
        flagged = _flagged(found)
        if len(flagged):
            score = float(found.readings.fused[flagged[0]])
            origin = found.samples.origin
            if origin not in highest or score > highest[origin][0]:
                highest[origin] = (score, found)
    return [found for _, found in sorted(highest.values(), key=lambda entry: -entry[0])]
