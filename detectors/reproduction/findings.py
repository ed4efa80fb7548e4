"""What a reproduction found, as data: ``reproduction.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.evaluation import Estimate
from detectors.judgement import share
from detectors.reproduction.detection import Detection, DetectionNull
from detectors.reproduction.feature_plane import FeaturePlane
from detectors.samples import Classes, Measured
from detectors.statistics import auc

Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Performance:
    """How well images are diagnosed."""

    accuracy: Estimate
    auc: float
    """Of the scores: one class against the rest, averaged over the classes that occur."""


def performance(measured: Measured, labels: Classes, groups: Sequence[str]) -> Performance:
    """Of N measured images with true classes ``int64[N]`` and their patients."""
    areas = [
        auc(measured.probabilities[labels != c, c], measured.probabilities[labels == c, c])
        for c in np.unique(labels)
    ]
    return Performance(share(measured.predicted == labels, groups), float(np.mean(areas)))


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack at one epsilon."""

    name: str
    epsilon: float
    """Grey levels."""
    floats: Performance
    """As float pixels, which no file carries."""
    files: Performance | None
    """Rounded to whole grey levels; None below half of one, where that gives the source back."""


@dataclass(frozen=True, slots=True)
class Classifier:
    """The attacked model, on the clean images of the whole test split."""

    name: str
    data: str
    classes: tuple[str, ...]
    origin: str
    """Where it comes from: the zoo, a folder, or trained by this run."""
    clean: Performance
    recall: Mapping[str, Estimate]
    images: int
    patients: int
    commonest: float
    """Share of the test images that always answering the commonest class gets right."""


@dataclass(frozen=True, slots=True)
class Views:
    """Arrays that figures are drawn from."""

    saliency: Array
    """``float[M, H, W]``, some test images."""
    landscape: Array
    """``float[E, E]``, cross-entropy averaged over images; ε_1 down, ε_2 across."""
    grad_cam: tuple[Array, Array]
    """``float[h, w]`` of one image, clean and attacked (PGD, 1/255)."""
    mean_map: tuple[Array, Array]
    """The same image's last stage, averaged over channels."""
    plane: FeaturePlane
    attacked: npt.NDArray[np.bool_]
    """``bool[N]``: which points of ``plane`` are attacked images."""
    pixels: Array | None = None
    """``float[H, W, C]``, the image of ``grad_cam``, where it may be shown."""


@dataclass(frozen=True, slots=True)
class Reasons:
    """Numbers beside the views."""

    spread: float
    """Median share of the pixels that holds half of an image's saliency."""
    landscape_images: int
    second: Performance
    """Of the second, independent model on the whole test split."""
    loss: tuple[float, float, float]
    """Mean cross-entropy at (0, 0), at 1/255 along the model's own sign gradient, and at 1/255
    along the second model's."""
    grad_cam_moved: float
    """Median over images of the L1 distance between the Grad-CAMs of the clean and the attacked
    image, each scaled to sum 1, halved: 0 is the same place, 1 is elsewhere."""
    mean_map_change: float
    """Median relative change of the last stage's mean activation under that attack."""
    explained: float
    """Variance on the first two principal axes of the features."""


@dataclass(frozen=True, slots=True)
class Modality:
    """Everything about one classifier."""

    classifier: Classifier
    attacked_images: int
    """As many of each class."""
    attacked_clean: Performance
    """Of the same images before the attacks."""
    attacks: tuple[Attack, ...]
    fit_images: int
    detections: tuple[Detection, ...]
    null: DetectionNull
    reasons: Reasons
    views: Views


@dataclass(frozen=True, slots=True)
class ClassCount:
    """One classifier of so many of a data set's classes."""

    data: str
    classes: tuple[str, ...]
    judged_on: str
    """Which images: all of its classes, or those of the smallest classifier."""
    images: int
    clean: Performance
    attacks: tuple[Attack, ...]


@dataclass(frozen=True, slots=True)
class Reproduction:
    """All modalities, and how they were measured."""

    modalities: tuple[Modality, ...]
    class_counts: tuple[ClassCount, ...]
    provenance: Mapping[str, Any]

    def to_json(self) -> str:
        """Every number that the page has; arrays of figures are left out, NaN is null."""
        document = asdict(self)
        for modality in document["modalities"]:
            del modality["views"]
        return json.dumps(_plain(document), indent=1, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 6) if math.isfinite(value) else None
    return bool(value) if isinstance(value, np.bool_) else value
