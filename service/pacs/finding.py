"""What the guard found in one instance, as the objects that tell of it need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version

from service.answers import finite
from service.decide import Route, Verdict
from service.diagnose import Diagnosed
from service.guard import Guard

_GRAVITY = (Verdict.REJECT, Verdict.FLAG, Verdict.ACCEPT)


@dataclass(frozen=True, slots=True)
class Score:
    """One detector's. None where it is not finite."""

    detector: str
    score: float | None
    p_value: float | None


@dataclass(frozen=True, slots=True)
class FrameFinding:
    """One frame's verdict."""

    number: int
    """From 1, as DICOM counts."""
    verdict: Verdict
    route: Route | None
    p_value: float | None
    quality_p_value: float | None
    flag_level: float | None
    """p-values at or below which its class is flagged; None: never. Likewise the others."""
    reject_level: float | None
    quality_level: float | None
    scores: tuple[Score, ...]
    pixels: str
    """Digest of the decoded image."""
    decoding: str
    """Fingerprint of how it was decoded and shown."""

    @property
    def rank(self) -> tuple[int, float]:
        """Sorts the gravest first."""
        return _GRAVITY.index(self.verdict), -1.0 if self.p_value is None else self.p_value


@dataclass(frozen=True, slots=True)
class Finding:
    """One instance's verdict: that of its gravest frame."""

    frames: tuple[FrameFinding, ...]
    """The gravest first."""
    total_frames: int
    model: str
    model_version: str
    bundle: str
    """Digest."""
    policy: str
    """The accepted false-positive rates in words; part of what makes UIDs differ."""
    at: datetime
    """UTC."""

    @property
    def verdict(self) -> Verdict:
        """The instance's."""
        return self.frames[0].verdict

    @property
    def route(self) -> Route | None:
        """Why it is held."""
        return self.frames[0].route

    @property
    def held_frames(self) -> tuple[FrameFinding, ...]:
        """Those that are not accepted."""
        return tuple(frame for frame in self.frames if frame.verdict is not Verdict.ACCEPT)

    @property
    def software(self) -> str:
        """Our own version."""
        return version("lazaret")


def finding_of(guard: Guard, frames: Sequence[FrameFinding], at: datetime) -> Finding:
    """What was found in an instance.

    Args:
        frames: at least one, in any order.
    """
    alphas = guard.policy.alphas
    return Finding(
        frames=tuple(sorted(frames, key=lambda frame: frame.rank)),
        total_frames=len(frames),
        model=guard.model.name,
        model_version=guard.model.version,
        bundle=guard.bundle.digest,
        policy=f"FPR flag={alphas.flag:g} reject={alphas.reject:g} quality={alphas.quality:g} "
        f"on_detector_failure={guard.policy.on_detector_failure}",
        at=at,
    )


def frame_finding(guard: Guard, number: int, judged: Diagnosed) -> FrameFinding:
    """One frame's verdict. ``number`` counts from 1."""
    levels = guard.levels_of(judged.p)
    entries = zip(
        guard.bundle.manifest.detectors, judged.readings.scores[0], judged.p.detectors, strict=True
    )
    return FrameFinding(
        number=number,
        verdict=judged.decision.verdict,
        route=judged.decision.route,
        p_value=finite(judged.p.fused),
        quality_p_value=finite(judged.p.quality),
        flag_level=levels.flag,
        reject_level=levels.reject,
        quality_level=levels.quality,
        scores=tuple(
            Score(entry.name, finite(float(score)), finite(p)) for entry, score, p in entries
        ),
        pixels=judged.image.digest,
        decoding=judged.image.decoding.fingerprint,
    )
