"""Canaries on a schedule: a bundle's known files through the real path, never counted as traffic.

They are decoded, batched, run, calibrated and decided like any image, beside whatever traffic
there is. What they are not: recorded, cases, in the verdicts' metrics, in the drift tests, or seen
by what watches clients; none of these is on the path from bytes to decision.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from time import perf_counter

import structlog

from detectors.canaries import Canary, Kind
from models.imaging import ImageProblem, Limits
from service.body import Upload
from service.decide import Decision
from service.diagnose import diagnose
from service.guard import Guard, Guards
from service.metrics import Metrics
from service.metrics import catalogue as c
from service.problems import ServiceProblem
from service.question import Question

CLIENT = "canary"
SECONDS = 30.0
"""Longest wait for one canary's verdict."""

Judge = Callable[[Guard, Canary], Awaitable[Decision]]


class CanaryWatch:
    """Sends every served bundle's canaries and says how they fared.

    Args:
        judge: the real path.
    """

    def __init__(self, guards: Guards, metrics: Metrics, judge: Judge) -> None:
        self._guards = guards
        self._metrics = metrics
        self._judge = judge
        self._wrong: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send them on this loop, where the service runs; say which bundles have none."""
        self._loop = loop
        for guard in self._guards.all:
            if not guard.canaries:
                structlog.get_logger().warning(
                    "no canaries: nothing proves that this guard still detects",
                    model=guard.model.name,
                    advice="add them with lazaret bundle canaries",
                )

    def round(self) -> None:
        """Send them all once. Blocks; not for the event loop's thread."""
        assert self._loop is not None, "begin() comes first"
        for guard in self._guards.all:
            if guard.canaries and guard.batcher.ready:  # one that is cold says so by itself
                done = asyncio.run_coroutine_threadsafe(self._round(guard), self._loop)
                done.result(SECONDS * len(guard.canaries) + 5)

    async def _round(self, guard: Guard) -> None:
        model = guard.model.name
        wrong = dict.fromkeys(Kind, 0)
        for number, canary in enumerate(guard.canaries, 1):
            outcome = await self._send(guard, canary, number)
            self._metrics.count(c.CANARIES, model, canary.kind, outcome)
            wrong[canary.kind] += outcome != "seen"
        for kind, images in wrong.items():
            self._metrics.set(c.CANARY_MISSED, images, model, kind)
        if not any(wrong.values()):
            self._wrong.discard(model)
            self._metrics.set(c.CANARY_LAST, time.time(), model)
        elif model not in self._wrong:
            self._wrong.add(model)
            self._metrics.count(c.INCIDENTS, "canary_missed")
        self._metrics.set(c.INCIDENTS_OPEN, len(self._wrong), "canary_missed")

    async def _send(self, guard: Guard, canary: Canary, number: int) -> str:
        log = structlog.get_logger().bind(
            model=guard.model.name, canary=number, kind=str(canary.kind)
        )
        try:
            async with asyncio.timeout(SECONDS):
                decision = await self._judge(guard, canary)
        except (ImageProblem, ServiceProblem, TimeoutError) as problem:
            log.error("canary not judged", error=type(problem).__name__)
            return "failed"
        if canary.seen(decision.held):
            return "seen"
        log.error("canary missed", verdict=str(decision.verdict), reason=decision.reason)
        return "missed"


def real_path(limits: Limits, decoders: Executor) -> Judge:
    """From a canary's bytes to its decision, by the walk that every image takes."""

    async def judge(guard: Guard, canary: Canary) -> Decision:
        question = Question(CLIENT, CLIENT, perf_counter())
        found = await diagnose(Upload(canary.data, None), guard, limits, decoders, question)
        return found.decision

    return judge
