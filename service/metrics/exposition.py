"""The page that Prometheus reads, in the format it asks for."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def page(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The exposition and its media type: OpenMetrics, with exemplars, where ``accept`` names it,
    else Prometheus's text."""
    wanted = openmetrics_wanted(accept)
    write: Any = openmetrics.generate_latest if wanted else generate_latest
    return write(registry), OPENMETRICS if wanted else TEXT


def openmetrics_wanted(accept: str) -> bool:
    """Whether an ``Accept`` header names OpenMetrics."""
    offered = (part.partition(";")[0].strip().lower() for part in accept.split(","))
    return "application/openmetrics-text" in offered
