"""False alarms where they may gather: by class, source, brightness and size of the image; and
whether p-values are as often small as they say."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detectors.evaluation import CalibrationCheck, Subgroup
from detectors.judgement import Judgement, share

MOST_SOURCES = 12
"""Prefixes beyond which they name patients rather than sources."""

ALPHAS = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05),
    *(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
)
"""Dense where thresholds lie, then the whole range."""


def subgroups(clean: Judgement, classes: Sequence[str]) -> tuple[Subgroup, ...]:
    """Every division of the clean test images that has at least two parts."""
    images = clean.samples.images
    divisions = {
        "true class": named_classes(clean.samples.labels, classes),
        "predicted class": named_classes(clean.measured.predicted, classes),
        "source": named_sources(clean.samples.sources) or sources(clean.samples.groups),
        "brightness": thirds(np.array([float(i.mean()) for i in images]), "grey levels"),
        "size": thirds(np.array([i.shape[0] * i.shape[1] / 1e6 for i in images]), "megapixels"),
    }
    return tuple(
        _subgroup(clean, by, name, rows)
        for by, parts in divisions.items()
        if len(parts) > 1
        for name, rows in parts.items()
    )


def _subgroup(clean: Judgement, by: str, name: str, rows: npt.NDArray[np.intp]) -> Subgroup:
    groups = [clean.samples.groups[i] for i in rows]
    return Subgroup(
        by=by,
        name=name,
        images=len(rows),
        patients=len(set(groups)),
        accuracy=share(clean.right[rows], groups),
        adversarial=share(clean.adversarial[rows], groups),
        quality=share(clean.quality[rows], groups),
    )


Parts = dict[str, npt.NDArray[np.intp]]


def named_classes(numbers: npt.NDArray[np.int64], classes: Sequence[str]) -> Parts:
    """Rows by class; classes without an image are left out."""
    parts = {name: np.flatnonzero(numbers == c) for c, name in enumerate(classes)}
    return {name: rows for name, rows in parts.items() if len(rows)}


def named_sources(names: Sequence[str]) -> Parts:
    """Rows by the source that the data set names; empty where it names none."""
    if len(set(names)) > MOST_SOURCES:
        return {}
    return {name or "–": np.flatnonzero(np.array(names) == name) for name in sorted(set(names))}


def sources(groups: Sequence[str]) -> Parts:
    """Rows by what stands before the first digit of a patient's name, where a data set joined from
    several sources often says which. Empty where that tells nothing."""
    prefixes = np.array([re.sub(r"[\W_]*\d.*", "", group, flags=re.S) or "–" for group in groups])
    names = np.unique(prefixes)
    if len(names) > MOST_SOURCES:
        return {}
    return {str(name): np.flatnonzero(prefixes == name) for name in names}


def thirds(values: npt.NDArray[np.float64], unit: str) -> Parts:
    """Rows in the lower, middle and upper third of ``values``; fewer parts where values tie."""
    edges = np.quantile(values, [0, 1 / 3, 2 / 3, 1])
    place = np.searchsorted(edges[1:-1], values, side="left")
    parts = {}
    for third in range(3):
        rows = np.flatnonzero(place == third)
        if len(rows):
            low, high = values[rows].min(), values[rows].max()
            parts[f"{low:.3g} to {high:.3g} {unit}"] = rows
    return parts


def calibration_checks(clean: Judgement, classes: Sequence[str]) -> tuple[CalibrationCheck, ...]:
    """Over all clean test images, then by predicted class."""
    everyone = np.arange(len(clean.samples))
    by_class = named_classes(clean.measured.predicted, classes)
    return (
        _check(clean, None, everyone),
        *(_check(clean, name, rows) for name, rows in by_class.items()),
    )


def _check(clean: Judgement, predicted: str | None, rows: npt.NDArray[np.intp]) -> CalibrationCheck:
    groups = [clean.samples.groups[i] for i in rows]
    return CalibrationCheck(
        predicted,
        len(rows),
        ALPHAS,
        # NaN, an answer that did not come, is held and so counts at every level
        tuple(share(~(clean.p[rows] > alpha), groups) for alpha in ALPHAS),
    )
