"""What the walk from bytes to verdict tells the metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from math import isfinite
from typing import TYPE_CHECKING, Any, Self

from detectors.calibrate import PValues
from service.decide import Decision, Route
from service.metrics import catalogue as c
from service.metrics import labels as by
from service.metrics.registry import Metrics

if TYPE_CHECKING:
    from service.admission import Admission
    from service.guard import Guard

FUSED, QUALITY = "fused", "quality"
STAGES = by.STAGE.values


class GatewayMetrics:
    """Counts requests, verdicts and bundles into ``metrics``."""

    def __init__(self, metrics: Metrics, admission: Admission) -> None:
        self.metrics = metrics
        self._series: dict[tuple[str, str], _Series] = {}
        metrics.watch(c.IN_FLIGHT, lambda: admission.requests)
        metrics.watch(c.HELD_BYTES, lambda: admission.held_bytes)
        metrics.allow(by.VERSION, [version("lazaret")])
        metrics.set(c.BUILD_INFO, 1, version("lazaret"))
        metrics.allow(by.DETECTOR, [FUSED, QUALITY])

    def serves(self, guard: Guard) -> None:
        """Tell of a bundle that is being served from now on."""
        metrics, model, bundle = self.metrics, guard.model, guard.bundle
        metrics.allow(by.MODEL, [model.name])
        metrics.allow(by.VERSION, [model.version])
        metrics.allow(by.BUNDLE, [bundle.digest])
        metrics.allow(by.CLASS, model.classes)
        metrics.allow(by.DETECTOR, [entry.name for entry in bundle.manifest.detectors])
        metrics.set(c.MODEL_INFO, 1, model.name, model.version, bundle.digest)
        metrics.set(c.BUNDLE_LOADED, time.time(), model.name)
        for name, levels in zip(model.classes, guard.levels, strict=True):
            metrics.set(c.CALIBRATION_IMAGES, levels.images, model.name, name)
            for level in by.LEVEL.values:
                assured = getattr(levels, level)
                bound = 0.0 if assured is None else getattr(guard.policy.alphas, level)
                metrics.set(c.CALIBRATED_FPR, assured or 0.0, model.name, name, level)
                metrics.set(c.CALIBRATED_FPR_BOUND, bound, model.name, name, level)
        metrics.watch(c.QUEUE_IMAGES, lambda: guard.batcher.depth, model.name)
        metrics.watch(c.READY, lambda: guard.batcher.ready, model.name)

    def served_before(self, guard: Guard) -> None:
        """Tell of a bundle that is not served any more."""
        model = guard.model
        self.metrics.set(c.MODEL_INFO, 0, model.name, model.version, guard.bundle.digest)

    def bundle_refused(self, reason: str) -> None:
        """Count one bundle that was not loaded."""
        self.metrics.count(c.BUNDLE_REFUSALS, reason)

    def judged(
        self,
        guard: Guard,
        interface: str,
        decision: Decision,
        p: PValues,
        batch: int,
        milliseconds: Mapping[str, float],
        trace_id: str | None = None,
        looked_again: bool = False,
    ) -> None:
        """Count one answered request.

        Args:
            looked_again: the second stage ran.
            milliseconds: by stage, all of them, and ``total``.
        """
        metrics, model = self.metrics, guard.model.name
        series = self._series.get((model, interface))
        if series is None or series.bundle != guard.bundle.digest:
            series = self._series[model, interface] = _Series.of(metrics, guard, interface)
        exemplar = {"trace_id": trace_id} if trace_id else None
        series.answered.inc()
        metrics.count(c.VERDICTS, model, decision.verdict, decision.route or by.NONE)
        if looked_again:
            metrics.count(c.SECOND_STAGE, model)
        if decision.bypass:
            metrics.count(c.BYPASSES, model)
        if decision.held and decision.route is not Route.QUERY_ATTACK:
            metrics.count(c.DECISIVE, model, decisive(decision, p, series.detectors))
        if isfinite(p.fused):
            series.fused.observe(p.fused, exemplar)
        for one, value in zip(series.p_values, (p.quality, *p.detectors), strict=True):
            if isfinite(value):
                one.observe(value)
        series.batch.observe(batch)
        for stage, one in series.stages:
            one.observe(milliseconds[stage] / 1000)
        series.total.observe(milliseconds["total"] / 1000, exemplar)

    def refused(self, interface: str, status: int, kind: str, shed: str | None = None) -> None:
        """Count one problem answer; ``shed`` is what was full, for those that load caused."""
        self.metrics.count(c.PROBLEMS, kind)
        self.metrics.count(c.REQUESTS, interface, outcome_of(status, shed))
        if shed is not None:
            self.metrics.count(c.SHED, shed)

    def incident(self, kind: str) -> None:
        """Count one incident raised."""
        self.metrics.count(c.INCIDENTS, kind)

    def not_recorded(self) -> None:
        """Count one answer that could not be recorded."""
        self.metrics.count(c.RECORD_FAILURES)


@dataclass(frozen=True, slots=True)
class _Series:
    """What every image of one bundle that comes by one door is counted in: found once, because to
    find twenty series by their labels costs more than to count."""

    bundle: str
    """Digest."""
    detectors: list[str]
    answered: Any
    fused: Any
    p_values: tuple[Any, ...]
    """Of the quality score, then of every detector."""
    batch: Any
    stages: tuple[tuple[str, Any], ...]
    total: Any

    @classmethod
    def of(cls, metrics: Metrics, guard: Guard, interface: str) -> Self:
        """Find them."""
        model, find = guard.model.name, metrics.series
        names = [entry.name for entry in guard.bundle.manifest.detectors]
        return cls(
            bundle=guard.bundle.digest,
            detectors=names,
            answered=find(c.REQUESTS, interface, "answered"),
            fused=find(c.P_VALUE, model, FUSED),
            p_values=tuple(find(c.P_VALUE, model, name) for name in (QUALITY, *names)),
            batch=find(c.BATCH_IMAGES, model),
            stages=tuple((stage, find(c.STAGE_SECONDS, model, stage)) for stage in STAGES),
            total=find(c.REQUEST_SECONDS, model, interface),
        )


def outcome_of(status: int, shed: str | None) -> str:
    """How a request with this answer ended."""
    if shed is not None:
        return "shed"
    if status == 504:
        return "late"
    return "failed" if status >= 500 else "refused"


def decisive(decision: Decision, p: PValues, names: list[str]) -> str:
    """Which detector decided that an image is held."""
    if decision.route is Route.QUALITY:
        return QUALITY if isfinite(p.fused) else FUSED
    finite = [
        (value, name)
        for value, name in zip(p.detectors, names, strict=True)
        if isfinite(value) and name != QUALITY
    ]
    return min(finite)[1] if finite else FUSED
