"""The documents that the service answers with, and the walk's result put into them."""

from __future__ import annotations

import math

from pydantic import BaseModel, Field

from service.decide import Decision, Route, Verdict
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


def answer(
    request_id: str, guard: Guard, found: Diagnosed, case_id: str | None, timing: Timing
) -> Answer:
    """The answer to one judged image."""
    return Answer(
        request_id=request_id,
        model=model_name(guard),
        verdict=found.decision.verdict,
        route=found.decision.route,
        diagnosis=None if found.decision.verdict is Verdict.REJECT else diagnosis(guard, found),
        guard=guard_answer(guard, found, found.decision),
        case_id=case_id,
        timing_ms=TimingAnswer(**timing.milliseconds()),
    )


def diagnosis(guard: Guard, found: Diagnosed) -> Diagnosis:
    """The model's own answer, also where it is withheld (for the record)."""
    probabilities = [round(float(p), 6) for p in found.readings.probabilities[0]]
    return Diagnosis(
        label=guard.model.classes[found.p.predicted],
        probabilities=dict(zip(guard.model.classes, probabilities, strict=True)),
    )


def guard_answer(guard: Guard, found: Diagnosed, decision: Decision) -> GuardAnswer:
    """Scores, p-values and what was decided on them."""
    entries = zip(
        guard.bundle.manifest.detectors, found.readings.scores[0], found.p.detectors, strict=True
    )
    return GuardAnswer(
        p_value=finite(found.p.fused),
        quality_p_value=finite(found.p.quality),
        alpha=Levels(**guard.policy.alphas.model_dump()),
        reason=decision.reason,
        bypass=decision.bypass,
        detectors=[
            DetectorAnswer(name=entry.name, score=finite(float(score)), p_value=finite(p))
            for entry, score, p in entries
        ],
        second_stage=found.second_score,
    )


def finite(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None
