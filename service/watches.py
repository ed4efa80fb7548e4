"""Everything that is watched while the service runs, wired: cases, drift, canaries, bundles.

What is one for all worker processes, the records, is watched by one of them. What each has for
itself, its engines and its present values, each watches."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from models.imaging import Limits
from service.auth import ANONYMOUS
from service.bundle_watch import BundleWatch
from service.canaries import CanaryWatch, real_path
from service.drift import DriftWatch
from service.drift_records import DriftRecords
from service.guard import Guards, LoadEngine
from service.metrics import GatewayMetrics
from service.metrics.labels import SOURCE
from service.monitor import Job, Monitor, watch_cases
from service.records import Records
from service.reviews import Reviews
from service.settings import Settings

CASES_SECONDS = 10.0
"""How often cases are counted."""
EXPIRY_SECONDS = 600.0
"""How often cases are looked through for claims that lapse and cases that expire."""
GAUGES_SECONDS = 2.0
"""How often a worker leaves its present values for the others."""


class Watches:
    """What runs beside the requests.

    Args:
        records_too: whether this process is the one that watches the records.
    """

    def __init__(
        self,
        settings: Settings,
        guards: Guards,
        load_engine: LoadEngine,
        records: Records,
        reviews: Reviews,
        told: GatewayMetrics,
        limits: Limits,
        decoders: Executor,
        *,
        records_too: bool,
    ) -> None:
        metrics = told.metrics
        metrics.allow(SOURCE, [ANONYMOUS, *settings.keys()])
        self.drift = DriftWatch(
            guards, DriftRecords(records.engine), metrics, settings.drift_false_alarm
        )
        self._records_too = records_too
        self._canaries = CanaryWatch(guards, metrics, real_path(limits, decoders))
        jobs = []
        if records_too:
            jobs += [
                Job("cases", CASES_SECONDS, lambda: watch_cases(records, metrics)),
                Job("reviews", EXPIRY_SECONDS, lambda: reviews.expire(settings.case_days)),
                Job("drift", settings.drift_seconds, self.drift.advance),
            ]
        if settings.canary_seconds:
            jobs.append(Job("canaries", settings.canary_seconds, self._canaries.round))
        if settings.bundle_seconds and settings.bundles:
            bundles = BundleWatch(settings, guards, load_engine, told)
            jobs.append(Job("bundles", settings.bundle_seconds, bundles.look))
        if settings.workers > 1:  # the one that is asked for the page sees only its own gauges
            jobs.append(Job("gauges", GAUGES_SECONDS, metrics.refresh))
        self._monitor = Monitor(jobs, metrics)

    async def start(self) -> None:
        """Before the first request is answered."""
        if self._records_too:
            await asyncio.to_thread(self.drift.begin)
        self._canaries.begin(asyncio.get_running_loop())
        self._monitor.start()

    async def close(self) -> None:
        """After the last."""
        await asyncio.to_thread(self._monitor.close)
