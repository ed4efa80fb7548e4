"""What an evaluation found, as data: ``evaluation.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final, Literal

from pydantic import ConfigDict

from detectors.null_test import NullResult
from detectors.paper_protocol import PaperScores

FPRS = (0.001, 0.01, 0.05)
SCHEMA: Final = 3

Knowledge = Literal["unaware", "unseen", "black_box", "aware"]
"""What attacker and guard know of each other. ``unaware``: the attacker knows the model alone, by a
family that the guard was fitted on. ``unseen``: the same by a family that the guard was not fitted
on. ``black_box``: the attacker only asks. ``aware``: the attacker knows model and guard."""

KNOWLEDGE: tuple[Knowledge, ...] = ("unaware", "unseen", "black_box", "aware")


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
    """Grey levels; 0 for attacks without a budget."""
    knowledge: Knowledge
    images: int
    """Attacked images that were diagnosed right when clean."""
    linf: float
    """Median of the delivered perturbations' largest change, in grey levels."""
    success: Estimate
    success_float: float
    """Success before rounding to the file's grid, where it was measured."""
    undetected_harm: Estimate
    """Diagnosed wrong and not held by the adversarial route at a realised clean FPR of 1 %, among
    ``images``."""
    undetected_harm_either: Estimate
    """Diagnosed wrong and accepted by both routes, which between them hold 1 % of clean images,
    each about as many."""
    undetected_harm_served: Estimate
    """The same at the bundle's own levels, both routes: what a deployment would have seen."""
    scores: dict[str, Judged]
    """By detector, and ``fused``."""
    paper: PaperScores | None
    """AUC by the paper's released protocol, leaks included; null for too few images for it."""


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
class Curve:
    """ROC points of one score: clean test images against attacks that changed a diagnosis."""

    knowledge: Knowledge
    attack: str | None
    """None: all attacks of this knowledge together."""
    epsilon: float
    score: str
    """A detector, or ``fused``."""
    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    """The best reachable at each ``fpr``."""


@dataclass(frozen=True, slots=True)
class CalibrationCheck:
    """How often p-values of clean test images are small. They should be so at most as often as
    they say: ``realised <= alpha``, within its interval."""

    predicted: str | None
    """The class whose calibration cell answered; None: all images."""
    images: int
    alpha: tuple[float, ...]
    realised: tuple[Estimate, ...]
    """Share of images with ``p <= alpha`` on the adversarial route."""


@dataclass(frozen=True, slots=True)
class Subgroup:
    """Clean test images that have something in common, at the bundle's own levels."""

    by: str
    """What divides the images: ``true class``, ``brightness`` and so on."""
    name: str
    images: int
    patients: int
    accuracy: Estimate
    adversarial: Estimate
    """False alarms of the adversarial route."""
    quality: Estimate
    """False alarms of the quality route alone."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What the numbers are held against."""

    adversarial: float
    """Largest share of clean images that the adversarial route may flag: what the bundle was
    calibrated for."""
    quality: float
    """The same for the quality route."""
    undetected_harm: float = 0.02


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything, with what it was computed from."""

    # for the published schema alone
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        use_attribute_docstrings=True, extra="forbid"
    )

    bundle: str
    model: str
    classes: tuple[str, ...]
    detectors: tuple[str, ...]
    targets: Targets
    provenance: dict[str, Any]
    clean: CleanResult
    null: tuple[NullResult, ...]
    """The bundle's scores between two halves of the clean test patients."""
    null_refitted: tuple[NullResult, ...]
    """Detectors fitted anew with benign images in the attacked ones' place."""
    null_paper: PaperScores
    """The paper's protocol on the same benign images: anything above 0.5 is its own making."""
    subgroups: tuple[Subgroup, ...]
    calibration: tuple[CalibrationCheck, ...]
    attacks: tuple[AttackResult, ...]
    curves: tuple[Curve, ...]
    left_out: tuple[LeftOut, ...]
    shifts: tuple[ShiftResult, ...]
    others: tuple[ShiftResult, ...]
    """Images that are not for this model: other sites, other modalities."""
    cost: dict[str, float]
    schema_version: Literal[3] = SCHEMA

    def known_as(self, knowledge: Knowledge) -> tuple[AttackResult, ...]:
        """The attacks by such attackers."""
        return tuple(a for a in self.attacks if a.knowledge == knowledge)

    def to_json(self) -> str:
        """JSON text; a number that is not finite becomes null."""
        return json.dumps(_plain(asdict(self)), indent=1) + "\n"


def worst(attacks: Sequence[AttackResult]) -> AttackResult | None:
    """The attack with the most undetected harm, the less certain one of equals."""
    return max(
        (a for a in attacks if not math.isnan(a.undetected_harm.value)),
        key=lambda a: (a.undetected_harm.value, a.undetected_harm.high, a.success.value),
        default=None,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
