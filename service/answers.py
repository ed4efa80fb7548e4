"""The documents that the service answers with, and the walk's result put into them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, Field

from service.decide import Decision, Policy, Route, Verdict
from service.diagnose import Diagnosed, Timing
from service.guard import Guard


class ModelName(BaseModel):
    """Which model answered, to the byte."""

    name: str
    version: str
    bundle: str = Field(description="`sha256:` digest of the bundle's manifest")


class Diagnosis(BaseModel):
    """What the diagnostic model says."""

    label: str
    probabilities: dict[str, float]


class Levels(BaseModel):
    """Accepted false-positive rates."""

    flag: float
    reject: float
    quality: float


class DetectorAnswer(BaseModel):
    """One detector's score (higher is more suspicious) and conformal p-value."""

    name: str
    score: float | None
    p_value: float | None


class GuardAnswer(BaseModel):
    """What the guard says. A p-value is null when a detector gave no finite score."""

    p_value: float | None = Field(description="of the fused adversarial score")
    quality_p_value: float | None
    alpha: Levels
    reason: str
    bypass: bool = Field(description="accepted although a detector could not judge it")
    detectors: list[DetectorAnswer]
    second_stage: float | None = Field(
        None,
        description="score of the second stage, which then decides `p_value`; null where it did "
        "not run: for most images, and in bundles without one",
    )


class TimingAnswer(BaseModel):
    """Milliseconds. ``total`` runs from the request's head to the durable record."""

    decode: float
    queue: float
    infer: float
    decide: float
    record: float
    total: float


class Answer(BaseModel):
    """The answer of ``POST /diagnose``. ``diagnosis`` is null when the image is rejected."""

    request_id: str
    model: ModelName
    verdict: Verdict
    route: Route | None
    diagnosis: Diagnosis | None
    guard: GuardAnswer
    case_id: str | None
    timing_ms: TimingAnswer


def model_name(guard: Guard) -> ModelName:
    """The guard's model and bundle."""
    return ModelName(name=guard.model.name, version=guard.model.version, bundle=guard.bundle.digest)


@dataclass(frozen=True, slots=True)
class Said:
    """What model and guard say about one image, as its record and its answer both have it."""

    label: str
    probabilities: dict[str, float | None]
    p_value: float | None
    quality_p_value: float | None
    detectors: list[dict[str, Any]]
    """``DetectorAnswer`` each."""
    second_stage: float | None

    @classmethod
    def of(cls, guard: Guard, found: Diagnosed) -> Self:
        """In plain numbers, None where one is not finite."""
        readings, p = found.readings, found.p
        entries = zip(
            guard.bundle.manifest.detectors, readings.scores[0].tolist(), p.detectors, strict=True
        )
        probabilities = [round(value, 6) for value in readings.probabilities[0].tolist()]
        return cls(
            label=guard.model.classes[p.predicted],
            probabilities=dict(zip(guard.model.classes, probabilities, strict=True)),
            p_value=finite(p.fused),
            quality_p_value=finite(p.quality),
            detectors=[
                {"name": entry.name, "score": finite(score), "p_value": finite(value)}
                for entry, score, value in entries
            ],
            second_stage=found.second_score,
        )

    def diagnosis(self) -> dict[str, Any]:
        """``Diagnosis``, also where it is withheld (for the record)."""
        return {"label": self.label, "probabilities": self.probabilities}

    def guard(self, policy: Policy, decision: Decision) -> dict[str, Any]:
        """``GuardAnswer``: scores, p-values and what was decided on them."""
        alphas = policy.alphas
        return {
            "p_value": self.p_value,
            "quality_p_value": self.quality_p_value,
            "alpha": {
                "flag": alphas.flag, "reject": alphas.reject, "quality": alphas.quality
            },
            "reason": decision.reason,
            "bypass": decision.bypass,
            "detectors": self.detectors,
            "second_stage": self.second_stage,
        }  # fmt: skip


def answer(
    request_id: str,
    guard: Guard,
    decision: Decision,
    said: Said,
    case_id: str | None,
    timing: Timing,
) -> Answer:
    """The answer to one judged image. One call builds it: to build its parts one by one costs
    several times as much."""
    model = guard.model
    return Answer.model_validate(
        {
            "request_id": request_id,
            "model": {
                "name": model.name, "version": model.version, "bundle": guard.bundle.digest
            },
            "verdict": decision.verdict,
            "route": decision.route,
            "diagnosis": None if decision.verdict is Verdict.REJECT else said.diagnosis(),
            "guard": said.guard(guard.policy, decision),
            "case_id": case_id,
            "timing_ms": timing.milliseconds(),
        }
    )  # fmt: skip


def finite(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None
