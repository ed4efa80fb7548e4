"""The values of one application's metrics, with labels held to what ``labels`` allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from math import prod
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics

from service.metrics import catalogue
from service.metrics.catalogue import Counter, Gauge, Histogram, Metric
from service.metrics.labels import MOST_CONFIGURED, OTHER, Label
from service.metrics.shared import Together, shared

# When each series was made is of no use to Prometheus and would add a line to every one.
disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped in the library

Read = Callable[[], float]
MOST_AT_ZERO = 256
"""Most series of one counter that are there before anything is counted."""


class Metrics:
    """Counts, sets and observes the metrics of ``catalogue``, in a registry of its own.

    A label value that is neither fixed nor allowed is counted as ``other``. Counters are there at
    0 for every value that their labels may say, so that the first event is an increase; a counter
    that starts at 1 would look to Prometheus as if nothing had happened. Thread-safe.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._families = {metric: _family(metric, self.registry) for metric in catalogue.ALL}
        self._children: dict[tuple[Metric, tuple[str, ...]], Any] = {}
        self._allowed: dict[Label, set[str]] = {}
        self._watched: dict[tuple[Gauge, tuple[str, ...]], Read] = {}
        self._start_at_zero(metric for metric in catalogue.ALL if isinstance(metric, Counter))

    def allow(self, label: Label, names: Iterable[str]) -> None:
        """Let a configured label say these names: configuration or a manifest, never a request."""
        allowed = self._allowed.setdefault(label, set())
        for name in names:
            if len(allowed) < MOST_CONFIGURED:
                allowed.add(str(name))
        self._start_at_zero(
            metric
            for metric in catalogue.ALL
            if isinstance(metric, Counter) and label in metric.labels
        )

    def count(self, metric: Counter, *labels: str, by: float = 1) -> None:
        """Add to a counter."""
        self._child(metric, labels).inc(by)

    def set(self, metric: Gauge, value: float, *labels: str) -> None:
        """Set a gauge."""
        self._child(metric, labels).set(value)

    def observe(
        self, metric: Histogram, value: float, *labels: str, trace_id: str | None = None
    ) -> None:
        """Add to a histogram; ``trace_id`` becomes the exemplar where the metric has them."""
        exemplar = {"trace_id": trace_id} if trace_id and metric.exemplars else None
        self._child(metric, labels).observe(value, exemplar)

    def series(self, metric: Metric, *labels: str) -> Any:
        """One series, of ``prometheus_client``: for those that count the same thing often."""
        return self._child(metric, labels)

    def watch(self, metric: Gauge, read: Read, *labels: str) -> None:
        """Set the gauge from ``read`` whenever the page is written. ``read`` must return at once:
        what has to ask a disk or a server is ``set`` when it is known."""
        self._watched[metric, labels] = read

    def said(self, metric: Metric, label: Label, *first: str) -> frozenset[str]:
        """What a label of the metric has said so far, beside these first labels."""
        at = metric.labels.index(label)
        return frozenset(
            labels[at]
            for known, labels in list(self._children)
            if known is metric and labels[: len(first)] == first
        )

    def readable(self) -> CollectorRegistry:
        """What the page is written from: the registry, or that of all worker processes where they
        share their values."""
        if not shared():
            return self.registry
        together = CollectorRegistry()
        together.register(Together(self._with_exemplars))
        return together

    def refresh(self) -> None:
        """Set the gauges that are watched. One that cannot be read keeps its value."""
        for (metric, labels), read in list(self._watched.items()):
            try:
                value = read()
            except Exception:  # noqa: S112  whatever it is, the others are still worth reading
                continue
            self.set(metric, value, *labels)

    def _with_exemplars(self) -> list[Any]:
        return [
            family
            for metric, known in self._families.items()
            if isinstance(metric, Histogram) and metric.exemplars
            for family in known.collect()
        ]

    def _start_at_zero(self, counters: Iterable[Counter]) -> None:
        for counter in counters:
            said = [
                label.values or sorted(self._allowed.get(label, ())) for label in counter.labels
            ]
            if prod(map(len, said)) <= MOST_AT_ZERO:
                for labels in product(*said):
                    self._child(counter, labels)

    def _child(self, metric: Metric, labels: tuple[str, ...]) -> Any:
        try:
            return self._children[metric, labels]
        except KeyError:
            return self._admit(metric, labels)

    def _admit(self, metric: Metric, labels: tuple[str, ...]) -> Any:
        if len(labels) != len(metric.labels):
            raise ValueError(f"{metric.name} has {len(metric.labels)} labels, not {len(labels)}")
        bounded = tuple(
            str(value) if self._may_say(label, value) else OTHER
            for label, value in zip(metric.labels, labels, strict=True)
        )
        family = self._families[metric]
        child = family.labels(*bounded) if bounded else family
        self._children[metric, bounded] = child
        return child

    def _may_say(self, label: Label, value: str) -> bool:
        return value in label.values or value in self._allowed.get(label, ())


def _family(metric: Metric, registry: CollectorRegistry) -> Any:
    names = [label.name for label in metric.labels]
    if isinstance(metric, Histogram):
        return prometheus_client.Histogram(
            metric.name, metric.meaning, names, buckets=metric.buckets, registry=registry
        )
    if isinstance(metric, Gauge):
        return prometheus_client.Gauge(
            metric.name, metric.meaning, names, multiprocess_mode=metric.across, registry=registry
        )
    return prometheus_client.Counter(metric.name, metric.meaning, names, registry=registry)
