"""Prometheus metrics. Label values come from fixed sets and bundle manifests, never from input."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.admission import Admission
from service.decide import Decision
from service.guard import Guards

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# Benign p-values are uniform, so the share below each bound is the bound itself while all is well.
P_VALUES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self, guards: Guards, admission: Admission) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self._verdicts = Counter(
            "lazaret_verdicts",
            "Images judged, by verdict and route",
            ["model", "verdict", "route"],
            registry=r,
        )
        self._problems = Counter(
            "lazaret_problems", "Diagnosis requests refused, by kind", ["kind"], registry=r
        )
        self._stages = Histogram(
            "lazaret_stage_seconds",
            "Time of each stage of a diagnosis",
            ["stage"],
            buckets=SECONDS,
            registry=r,
        )
        self._p_values = Histogram(
            "lazaret_p_value",
            "Fused p-values; uniform while traffic is like the calibration images",
            ["model"],
            buckets=P_VALUES,
            registry=r,
        )
        self._batches = Histogram(
            "lazaret_batch_images", "Images per run", ["model"], buckets=BATCHES, registry=r
        )
        self._bypasses = Counter(
            "lazaret_bypasses",
            "Images let by because a detector failed and the policy is open",
            ["model"],
            registry=r,
        )
        self._record_failures = Counter(
            "lazaret_record_failures", "Answers withheld because they could not be recorded",
            registry=r,
        )  # fmt: skip
        in_flight = Gauge("lazaret_in_flight_requests", "Requests being answered", registry=r)
        in_flight.set_function(lambda: admission.requests)
        held = Gauge("lazaret_held_bytes", "Bytes of bodies and pixels in memory", registry=r)
        held.set_function(lambda: admission.held_bytes)
        depth = Gauge("lazaret_queue_images", "Images that wait", ["model"], registry=r)
        ready = Gauge("lazaret_ready", "1 when the engine is warm", ["model"], registry=r)
        for guard in guards.all:
            name, batcher = guard.model.name, guard.batcher
            depth.labels(name).set_function(lambda b=batcher: b.depth)  # type: ignore[misc]
            ready.labels(name).set_function(lambda b=batcher: b.ready)  # type: ignore[misc]

    def judged(
        self, model: str, decision: Decision, p_value: float, batch: int, stages: dict[str, float]
    ) -> None:
        """Count one verdict. ``stages`` are milliseconds by stage."""
        self._verdicts.labels(model, decision.verdict, decision.route or "none").inc()
        if decision.bypass:
            self._bypasses.labels(model).inc()
        if p_value == p_value:  # not NaN
            self._p_values.labels(model).observe(p_value)
        self._batches.labels(model).observe(batch)
        for stage, milliseconds in stages.items():
            self._stages.labels(stage).observe(milliseconds / 1000)

    def refused(self, kind: str) -> None:
        """Count one problem answer; ``unavailable`` are those that were shed."""
        self._problems.labels(kind).inc()

    def not_recorded(self) -> None:
        """Count one answer that could not be recorded."""
        self._record_failures.inc()

    def page(self) -> bytes:
        """The text exposition."""
        text: Any = generate_latest(self.registry)
        return bytes(text)
