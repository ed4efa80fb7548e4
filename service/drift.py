"""Does the guard keep its false-alarm promise? Watches the records, source by source.

``detectors.drift`` is the test. Here it is fed from what is on record, so that answering costs
nothing, several processes and replicas share one test, and a restart loses nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import structlog
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from detectors.drift import DriftTest, Gaps
from service.auth import Auth
from service.drift_records import DriftRecords, Seen, StoredTest
from service.guard import Guard, Guards
from service.metrics import Metrics
from service.metrics import catalogue as c
from service.metrics import labels as by
from service.openapi import problems

MOST_IMAGES = 5000
"""Most images of one turn."""
SETTLE_SECONDS = 3.0
"""How old a record must be before it is read."""
REMEMBERED = 128
"""How many images of a source are remembered, by digest: one that is sent again counts once."""

ADVICE = "recalibrate: lazaret calibrate --from-records"


class DriftAnswer(BaseModel):
    """The drift test of one source's traffic to one model."""

    model: str
    bundle: str
    source: str
    images: int = Field(description="accepted images that the test has seen")
    evidence: float = Field(description="decimal logarithm of the martingale's capital")
    mean_p: float = Field(description="of their p-values; 0.5 while all is well")
    since: datetime
    drifted_at: datetime | None = Field(description="since when there is proof")
    advice: str | None


@dataclass(frozen=True, slots=True)
class DriftWatch:
    """Advances every served guard's tests by what was recorded since.

    Args:
        false_alarm: of ``DriftTest``, for each source and bundle.
    """

    guards: Guards
    records: DriftRecords
    metrics: Metrics
    false_alarm: float
    settle: timedelta = timedelta(seconds=SETTLE_SECONDS)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def begin(self) -> None:
        """Start where the records end, for bundles that no test has begun for. Blocks."""
        for guard in self.guards.all:
            if self.records.cursor(basis_of(guard)) is None:
                self.records.begin(basis_of(guard))
            self._publish(guard)

    def advance(self) -> None:
        """Take one turn. Blocks."""
        for guard in self.guards.all:
            self._advance(guard)
            self._publish(guard)
        drifted = sum(one.drifted_at is not None for one in self.state())
        self.metrics.set(c.INCIDENTS_OPEN, drifted, "calibration_drift")

    def state(self) -> list[DriftAnswer]:
        """Every test of the served bundles. Blocks."""
        return [
            self._answer(stored)
            for guard in self.guards.all
            for stored in self.records.tests(basis_of(guard))
        ]

    def _advance(self, guard: Guard) -> None:
        basis = basis_of(guard)
        cursor = self.records.cursor(basis)
        if cursor is None:
            self.records.begin(basis)
            return
        last = self.records.settled(cursor, self.now() - self.settle)
        found = self.records.judged(guard.bundle.digest, cursor, last, MOST_IMAGES)
        if len(found) == MOST_IMAGES:
            last = found[-1][0]
        if last == cursor:
            return
        known = {stored.source: stored for stored in self.records.tests(basis)}
        changed = self._tested(guard, basis, known, [seen for _, seen in found])
        if not self.records.advance(basis, cursor, last, changed):
            return
        for stored in changed:
            before = known.get(stored.source)
            if stored.drifted_at and not (before and before.drifted_at):
                self._raise(stored)

    def _tested(
        self, guard: Guard, basis: str, known: dict[str, StoredTest], images: Sequence[Seen]
    ) -> list[StoredTest]:
        """The tests of the sources that sent something, with it."""
        gaps: dict[str, list[Gaps]] = {}
        classes = {name: index for index, name in enumerate(guard.model.classes)}
        changed: dict[str, StoredTest] = {}
        tests: dict[str, tuple[DriftTest, list[str]]] = {}
        for seen in images:
            stored = changed.get(seen.client) or known.get(seen.client)
            if stored is None:
                stored = StoredTest(
                    seen.client, guard.model.name, guard.bundle.digest, self.now(), None, {}
                )
            changed[seen.client] = stored
            if seen.client not in tests:
                tests[seen.client] = self._read(stored)
            test, remembered = tests[seen.client]
            mark = seen.pixels[-16:]
            if mark in remembered or seen.label not in classes:
                continue
            remembered.append(mark)
            del remembered[:-REMEMBERED]
            predicted = classes[seen.label]
            if seen.client not in gaps:
                gaps[seen.client] = gaps_of(guard, seen.client)
            tie, place = chances(basis, seen.request_id)
            test.see(predicted, gaps[seen.client][predicted], seen.fused_score, tie, place)
        return [
            replace(
                changed[source],
                drifted_at=changed[source].drifted_at
                or (None if test.drifted_after is None else self.now()),
                test={**test.as_document(), "remembered": remembered},
            )
            for source, (test, remembered) in tests.items()
        ]

    def _read(self, stored: StoredTest) -> tuple[DriftTest, list[str]]:
        if not stored.test:
            return DriftTest(self.false_alarm), []
        test = DriftTest.from_document(stored.test, self.false_alarm)
        return test, list(stored.test.get("remembered", []))

    def _publish(self, guard: Guard) -> None:
        model, metrics = guard.model.name, self.metrics
        stored = {found.source: found for found in self.records.tests(basis_of(guard))}
        # A source that an earlier bundle had and this one has not yet seen starts anew.
        for source in metrics.said(c.DRIFT, by.SOURCE, model) - set(stored):
            for gauge in (c.DRIFT, c.DRIFT_EVIDENCE, c.DRIFT_IMAGES):
                metrics.set(gauge, 0, model, source)
        for source, found in stored.items():
            test, _ = self._read(found)
            metrics.set(c.DRIFT, found.drifted_at is not None, model, source)
            metrics.set(c.DRIFT_EVIDENCE, test.evidence, model, source)
            metrics.set(c.DRIFT_IMAGES, test.images, model, source)

    def _raise(self, stored: StoredTest) -> None:
        self.metrics.count(c.INCIDENTS, "calibration_drift")
        answer = self._answer(stored)
        structlog.get_logger().error(
            "calibration drift",
            model=stored.model,
            bundle=stored.bundle,
            source=stored.source,
            images=answer.images,
            mean_p=round(answer.mean_p, 3),
            advice=ADVICE,
        )

    def _answer(self, stored: StoredTest) -> DriftAnswer:
        test, _ = self._read(stored)
        return DriftAnswer(
            model=stored.model,
            bundle=stored.bundle,
            source=stored.source,
            images=test.images,
            evidence=round(test.evidence, 3),
            mean_p=round(test.mean_p, 4),
            since=stored.begun_at,
            drifted_at=stored.drifted_at,
            advice=ADVICE if stored.drifted_at else None,
        )


def basis_of(guard: Guard) -> str:
    """What a test rests on: the bundle, and the levels beyond which images take no part."""
    flags = [levels.flag for levels in guard.levels]
    return hashlib.sha256(f"{guard.bundle.digest} {flags}".encode()).hexdigest()


def gaps_of(guard: Guard, source: str | None = None) -> list[Gaps]:
    """By class, of the cells that judge the source. Ties among calibration scores are broken alike
    in every process."""
    gaps = []
    for index, common in enumerate(guard.levels):
        cell, own = guard.bundle.calibration.cell(index, source)
        levels = common if own is None else guard.source_levels[own][index] or common
        gaps.append(Gaps.of(cell, levels.flag, seed=int(guard.bundle.digest[-15:], 16) + index))
    return gaps


def chances(basis: str, request_id: str) -> tuple[float, float]:
    """Two numbers in [0, 1) that look random and are the same for one request."""
    digest = hashlib.blake2b(f"{basis} {request_id}".encode(), digest_size=12).digest()
    return int.from_bytes(digest[:6], "big") / 2**48, int.from_bytes(digest[6:], "big") / 2**48


def routes(watch: DriftWatch, auth: Auth) -> APIRouter:
    """The router of ``/drift``."""
    router = APIRouter()

    @router.get(
        "/drift", summary="Is traffic still like the calibration?", responses=problems(401, 403)
    )
    async def drift(request: Request) -> list[DriftAnswer]:
        auth.client(request)
        return await asyncio.to_thread(watch.state)

    return router
