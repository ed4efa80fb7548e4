"""Everything that is watched while the service runs, wired: cases, drift, canaries."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from models.imaging import Limits
from service.auth import ANONYMOUS
from service.canaries import CanaryWatch, real_path
from service.drift import DriftWatch
from service.drift_records import DriftRecords
from service.guard import Guards
from service.metrics import Metrics
from service.metrics.labels import SOURCE
from service.monitor import Job, Monitor, watch_cases
from service.records import Records
from service.settings import Settings

CASES_SECONDS = 10.0
"""How often cases are counted."""
GAUGES_SECONDS = 2.0
"""How often a worker leaves its present values for the others."""


class Watches:
    """What runs beside the requests."""

    def __init__(
        self,
        settings: Settings,
        guards: Guards,
        records: Records,
        metrics: Metrics,
        limits: Limits,
        decoders: Executor,
    ) -> None:
        metrics.allow(SOURCE, [ANONYMOUS, *settings.keys()])
        self.drift = DriftWatch(
            guards, DriftRecords(records.engine), metrics, settings.drift_false_alarm
        )
        self._canaries = CanaryWatch(guards, metrics, real_path(limits, decoders))
        jobs = [
            Job("cases", CASES_SECONDS, lambda: watch_cases(records, metrics)),
            Job("drift", settings.drift_seconds, self.drift.advance),
        ]
        if settings.canary_seconds:
            jobs.append(Job("canaries", settings.canary_seconds, self._canaries.round))
        if settings.workers > 1:  # the one that is asked for the page sees only its own gauges
            jobs.append(Job("gauges", GAUGES_SECONDS, metrics.refresh))
        self._monitor = Monitor(jobs, metrics)

    async def start(self) -> None:
        """Before the first request is answered."""
        await asyncio.to_thread(self.drift.begin)
        self._canaries.begin(asyncio.get_running_loop())
        self._monitor.start()

    async def close(self) -> None:
        """After the last."""
        await asyncio.to_thread(self._monitor.close)
