"""What an evaluation found, as data: ``evaluation.json``."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from detectors.null_test import NullResult
from detectors.paper_protocol import PaperScores

FPRS = (0.001, 0.01, 0.05)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval; NaN where there was nothing to count."""

    value: float
    low: float
    high: float

    @property
    def described(self) -> str:
        """``0.98 (0.97 to 0.99)``."""
        if math.isnan(self.value):
            return "none"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True)
class Discrimination:
    """How well one score tells attacked from clean images."""

    auc: Estimate
    tpr: tuple[Estimate, Estimate, Estimate]
    """At a realised FPR of 0.1 %, 1 % and 5 % on the clean test images."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One score against one attack."""

    successful: Discrimination
    """Only attacks that changed a right diagnosis into a wrong one."""
    attempted: Discrimination
    """All attacked images that were diagnosed right when clean."""


@dataclass(frozen=True, slots=True)
class AttackResult:
    """One attack at one epsilon."""

    attack: str
    epsilon: float
    images: int
    """Attacked images that were diagnosed right when clean."""
    linf: float
    """Median of the delivered perturbations' largest change, in grey levels."""
    success: Estimate
    success_float: float
    """Success before rounding to the file's grid, where it was measured."""
    undetected_harm: Estimate
    """Diagnosed wrong and accepted at a realised clean FPR of 1 %, among ``images``."""
    undetected_harm_served: Estimate
    """The same at the bundle's own levels, both routes: what a deployment would have seen."""
    scores: dict[str, Judged]
    """By detector, and ``fused``."""
    paper: PaperScores | None
    """AUC by the paper's released protocol, leaks included."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The fused score against an attack that its guard had not been fitted on."""

    left_out: str
    attack: str
    epsilon: float
    auc: float
    undetected_harm: Estimate


@dataclass(frozen=True, slots=True)
class ShiftResult:
    """One benign shift."""

    shift: str
    severity: float
    images: int
    accuracy: float
    adversarial: Estimate
    """Share flagged or rejected by the adversarial route, at the bundle's own levels."""
    adversarial_at_1pct: float
    """The same at the threshold that flags 1 % of clean images."""
    quality: Estimate
    """Share that the quality route flags and the adversarial route does not."""


@dataclass(frozen=True, slots=True)
class CleanResult:
    """Benign images as they came."""

    images: int
    patients: int
    accuracy: Estimate
    adversarial: Estimate
    """Realised FPR of the adversarial route at the bundle's own levels."""
    quality: Estimate
    adversarial_by_class: dict[str, Estimate]
    errors_accepted: Estimate
    """Diagnosed wrong and accepted, among all images: what no guard against attacks can see."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything, with what it was computed from."""

    bundle: str
    model: str
    detectors: tuple[str, ...]
    provenance: dict[str, Any]
    clean: CleanResult
    null: tuple[NullResult, ...]
    """The bundle's scores between two halves of the clean test patients."""
    null_refitted: tuple[NullResult, ...]
    """Detectors fitted anew with benign images in the attacked ones' place."""
    null_paper: PaperScores
    """The paper's protocol on the same benign images: anything above 0.5 is its own making."""
    attacks: tuple[AttackResult, ...]
    left_out: tuple[LeftOut, ...]
    shifts: tuple[ShiftResult, ...]
    others: tuple[ShiftResult, ...]
    """Images that are not for this model: other sites, other modalities."""
    cost: dict[str, float]
    schema_version: int = 1

    def to_json(self) -> str:
        """JSON text; NaN becomes null."""
        return json.dumps(_plain(asdict(self)), indent=1) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
