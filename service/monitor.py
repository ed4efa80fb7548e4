"""What is looked at again and again while the service runs, beside the requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from service.metrics import Metrics
from service.metrics import catalogue as c
from service.metrics import labels as by
from service.records import Records

QUERY_ATTACK = "query_attack"
"""The route whose cases are incidents: one a series of queries."""


@dataclass(frozen=True, slots=True)
class Job:
    """Something to do every so often. It may block; a failure is counted, and it is tried again.

    Its name is one of ``labels.JOB``.
    """

    name: str
    seconds: float
    run: Callable[[], None]


class Monitor:
    """One thread that runs jobs one after the other, each when it is due."""

    def __init__(self, jobs: Sequence[Job], metrics: Metrics) -> None:
        self._jobs = tuple(jobs)
        self._metrics = metrics
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run_forever, name="monitor", daemon=True)

    def start(self) -> None:
        """Run every job, then each again when it is due."""
        self._thread.start()

    def close(self) -> None:
        """Let the running job end. Blocks."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run_forever(self) -> None:
        due = {job: 0.0 for job in self._jobs}
        while due and not self._closing.is_set():
            job = min(due, key=lambda one: due[one])
            if self._closing.wait(max(0.0, due[job] - time.monotonic())):
                return
            self._run(job)
            due[job] = time.monotonic() + job.seconds

    def _run(self, job: Job) -> None:
        try:
            job.run()
        except Exception as error:  # whatever it is, the other jobs go on
            self._metrics.count(c.JOB_FAILURES, job.name)
            structlog.get_logger().error(
                "background check failed", job=job.name, error=type(error).__name__
            )


def watch_cases(records: Records, metrics: Metrics) -> None:
    """Set the gauges of cases by state."""
    found = records.case_ages()
    now = datetime.now(UTC)
    for state in {*by.CASE_STATE.values, *found}:
        count, oldest = found.get(state, (0, now))
        metrics.set(c.CASES, count, state)
        metrics.set(c.CASE_OLDEST, max(0.0, (now - oldest).total_seconds()), state)
    metrics.set(c.INCIDENTS_OPEN, records.open_cases(QUERY_ATTACK), QUERY_ATTACK)
