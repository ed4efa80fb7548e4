"""From the spool to a verdict on record: route, judge, build, write, done.

An instance leaves the spool once its record, its case, its key and everything that is to be sent
of it are durable in one transaction. Killed before that, it is judged again; killed after, its
key says that it was judged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Final
from uuid import uuid4
from weakref import WeakKeyDictionary

import structlog
from sqlalchemy import select

from models.imaging import ImageProblem
from service import trace_context
from service.answers import Said
from service.decide import Verdict
from service.gateway import Gateway, record_of
from service.guard import Guard, with_policy
from service.pacs.attributes import (
    Unplaceable,
    has_pixels,
    study_and_patient_of,
    subject_of,
    traits_of,
)
from service.pacs.finding import Finding, finding_of
from service.pacs.frames import Judged, judge_frames
from service.pacs.outbox import Parcel
from service.pacs.parcels import DICOM, parcels_of_judged, parcels_of_unjudged
from service.pacs.queries import InstanceQueries
from service.pacs.received import Protocol
from service.pacs.routes import Choice, Emitted, Handling, RouteTable, Unjudged, choose
from service.pacs.spool import Spool
from service.pacs.spool_entry import Entry, SpoolProblem
from service.pacs.told import Tell, Told
from service.problems import ServiceProblem
from service.question import Question
from service.records import AlreadyRecorded, NewCase, Record, RecordsProblem
from service.settings import SettingsProblem
from service.tables import instances

TOGETHER: Final = 8
"""Instances in work at once: enough to fill a batch while others are read and written."""
WAIT_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 2.0
"""After the engine or the database could not answer; the spool keeps what waits."""
UNNAMED: Final = "pacs"
"""The client on record of a sender that no setting names: a title is what anyone may claim."""
INTERFACES: Final = {Protocol.DIMSE: "dicom", Protocol.STOW: "dicomweb", Protocol.PULL: "dicomweb"}


class NotNow(Exception):
    """The engine or the database cannot answer; the instance waits."""


class Screening:
    """The worker of one process. ``run`` until ``close``.

    Args:
        callers: configured names of senders; records name no other.
        tell: makes parcels for audiences beside the archive.
        wake: called when there is something to send.
        failed: told which object could not be built.

    Raises:
        SettingsProblem: a route names a model that is not loaded, or none where there are several.
    """

    def __init__(
        self,
        spool: Spool,
        gateway: Gateway,
        table: RouteTable,
        callers: frozenset[str] = frozenset(),
        tell: Tell = lambda _: (),
        wake: Callable[[], None] = lambda: None,
        failed: Callable[[Emitted], None] = lambda _: None,
    ) -> None:
        self._spool = spool
        self._gateway = gateway
        self._table = table
        self._callers = callers
        self._tell = tell
        self._wake = wake
        self._failed = failed
        self._queries = InstanceQueries(gateway)
        self._policied: WeakKeyDictionary[Guard, dict[str, Guard]] = WeakKeyDictionary()
        for name, handling in table.handlings():
            self._guard(name, handling)
        self._builder = ThreadPoolExecutor(1, thread_name_prefix="objects")
        self._closing = asyncio.Event()

    async def run(self) -> None:
        """Screen what waits, and what comes, until closed."""
        while not self._closing.is_set():
            entries = await asyncio.to_thread(self._next)
            if not entries:
                await asyncio.to_thread(self._spool.wait, 0, WAIT_SECONDS)
                continue
            ended = await asyncio.gather(*(self._screen_alone(entry) for entry in entries))
            done = [entry for entry, end in zip(entries, ended, strict=True) if end]
            try:
                await asyncio.to_thread(self._spool.done, *done)
            except SpoolProblem as problem:  # its key is on record: it is only looked at again
                structlog.get_logger().error("spool failed", reason=str(problem))
            if done:
                self._wake()
            if not all(ended):
                await self._pause()

    def close(self) -> None:
        """Stop after what is in work. Call it on the loop of ``run``, and wait for that."""
        self._closing.set()

    def _next(self) -> list[Entry]:
        found = []
        for entry in self._spool.waiting():
            found.append(entry)
            if len(found) == TOGETHER:
                break
        return found

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._closing.wait(), PAUSE_SECONDS)
        except TimeoutError:
            return

    async def _screen_alone(self, entry: Entry) -> bool:
        """Whether the entry is done with. One that fails by our fault is set aside."""
        try:
            with trace_context.followed():
                await self._screen(entry)
        except NotNow as problem:
            structlog.get_logger().warning("screening waits", reason=str(problem))
            return False
        except SpoolProblem as problem:
            structlog.get_logger().error("spooled file unusable", reason=str(problem))
            await asyncio.to_thread(self._spool.set_aside, entry, "damaged")
            return False
        except Exception as error:  # one instance's failure must not hold up the others
            structlog.get_logger().error(
                "screening failed", entry=entry.sequence, error=type(error).__name__
            )
            await asyncio.to_thread(self._spool.set_aside, entry, "failed")
            return False
        return True

    async def _screen(self, entry: Entry) -> None:
        if await asyncio.to_thread(self._on_record, entry.key):
            return
        file = await asyncio.to_thread(entry.read)
        received = entry.received
        traits = await asyncio.to_thread(traits_of, file, received.calling, received.called)
        choice = choose(self._table, traits)
        guard = self._guard(choice.name, choice.handling)
        question = Question(
            request_id=uuid4().hex,
            client=received.calling if received.calling in self._callers else UNNAMED,
            started=perf_counter(),
            interface=INTERFACES[received.protocol],
        )
        gateway = self._gateway
        try:
            judged = await judge_frames(file, guard, gateway.limits, gateway.decoders, question)
        except ImageProblem as problem:
            refusal = ServiceProblem.from_image(problem)
        except ServiceProblem as problem:
            if problem.status >= 500:
                raise NotNow(problem.detail) from None
            refusal = problem
        else:
            await self._write_judged(entry, file, choice, guard, question, judged)
            return
        await self._write_unjudged(entry, file, choice, guard, question, refusal)

    async def _write_judged(
        self,
        entry: Entry,
        file: bytes,
        choice: Choice,
        guard: Guard,
        question: Question,
        judged: Judged,
    ) -> None:
        now = datetime.now(UTC)
        linked = await self._queries.link(file, entry.received, guard, judged)
        judged = linked.told
        finding = finding_of(guard, judged.frames, now)
        said = Said.of(guard, linked.found)
        record = record_of(question, guard, linked.found, said, file if linked.opens else None)
        if record.case is not None:
            evidence = {**record.case.evidence, **_evidence(entry, choice, finding)}
            record = replace(record, case=replace(record.case, evidence=evidence))
        loop = asyncio.get_running_loop()
        parcels = await loop.run_in_executor(
            self._builder, self._parcels, file, choice, finding, judged
        )
        parcels += self._told(entry, file, choice, finding, record, record.bypass)
        started = perf_counter()
        try:
            await self._write(entry, record, parcels, now)
        except NotNow:
            await self._queries.withdraw(linked)
            raise
        ended = perf_counter()
        timing = linked.found.timing.recorded(ended - started, ended - question.started)
        self._gateway.tell(question, record, guard, linked.found, timing, 0.0)

    async def _write_unjudged(
        self,
        entry: Entry,
        file: bytes,
        choice: Choice,
        guard: Guard,
        question: Question,
        refusal: ServiceProblem,
    ) -> None:
        now = datetime.now(UTC)
        image = await asyncio.to_thread(has_pixels, file)
        parcels = parcels_of_unjudged(choice.handling, file, image)
        held = image and choice.handling.unjudged is Unjudged.HOLD
        record = Record(
            question.request_id, question.client, refusal.status, refusal.kind,
            guard.model.name, guard.bundle.digest, media_type=DICOM,
        )  # fmt: skip
        if held:
            evidence = {**_evidence(entry, choice, None), "problem": refusal.detail}
            case = NewCase(uuid4().hex, "malformed", evidence, DICOM, file)
            record = replace(
                record, verdict="reject", route="malformed", case_id=case.case_id, case=case
            )
        parcels += self._told(entry, file, choice, None, record, image and bool(parcels))
        await self._write(entry, record, parcels, now)
        self._gateway.metrics.refused(question.interface, refusal.status, refusal.kind)
        structlog.get_logger().warning(
            "held unjudged" if held else "passed unjudged" if parcels else "unjudged",
            request_id=question.request_id, route=choice.name, problem=refusal.kind, image=image,
            case_id=record.case_id,
        )  # fmt: skip

    def _told(
        self,
        entry: Entry,
        file: bytes,
        choice: Choice,
        finding: Finding | None,
        record: Record,
        bypassed: bool,
    ) -> Sequence[Parcel]:
        held = finding is None or finding.verdict is not Verdict.ACCEPT
        case_id = record.case_id if held else None
        _, patient = study_and_patient_of(file)
        told = Told(entry.key, entry.received, choice, finding, case_id, bypassed, patient)
        return self._tell(told)

    def _parcels(
        self, file: bytes, choice: Choice, finding: Finding, judged: Judged
    ) -> list[Parcel]:
        """In the builder's thread: highdicom takes a tenth of a second for a report."""
        handling, made = choice.handling, []
        kinds = handling.emit.of(finding.verdict)
        if kinds and handling.destinations:
            from service.pacs.objects import objects

            try:
                made = objects(
                    kinds, subject_of(file), finding, judged.gravest.image.pixels, self._failed
                )
            except Unplaceable:
                for kind in kinds:
                    self._failed(kind)
                structlog.get_logger().warning("no object: the instance lacks a UID")
        return parcels_of_judged(handling, finding.verdict, file, made)

    async def _write(
        self, entry: Entry, record: Record, parcels: Sequence[Parcel], now: datetime
    ) -> None:
        key = {"key": entry.key, "request_id": record.request_id, "at": now}
        rows = ((instances, key), *(parcel.row(record.request_id, now) for parcel in parcels))
        record = replace(record, rows=rows)
        try:
            try:
                await self._gateway.records.write(record)
            except AlreadyRecorded:
                if await asyncio.to_thread(self._on_record, entry.key):
                    return  # another process was faster
                # with the case of the incident, that is: the instance itself is new
                await self._gateway.records.write(replace(record, case=None))
        except RecordsProblem:
            self._gateway.metrics.not_recorded()
            raise NotNow("the verdict cannot be recorded") from None

    def _guard(self, route: str, handling: Handling) -> Guard:
        """What judges a route's instances now, by its policy. Raises ``SettingsProblem``."""
        guards = self._gateway.guards
        try:
            guard = guards.choose(handling.model)
        except ServiceProblem:
            loaded = ", ".join(guard.model.name for guard in guards.all) or "none"
            raise SettingsProblem(
                f"setting pacs_routes: route {route} needs `model:` to be one of the loaded "
                f"models: {loaded}"
            ) from None
        if handling.policy is None:
            return guard
        by_route = self._policied.setdefault(guard, {})
        if route not in by_route:
            by_route[route] = with_policy(guard, handling.policy)
        return by_route[route]

    def _on_record(self, key: str) -> bool:
        query = select(instances.c.key).where(instances.c.key == key)
        with self._gateway.records.engine.connect() as connection:
            return connection.scalar(query) is not None


def _evidence(entry: Entry, choice: Choice, finding: Finding | None) -> dict[str, Any]:
    """What a reviewer may want to know beside the guard's evidence."""
    evidence: dict[str, Any] = {"pacs_route": choice.name}
    if entry.alarming:
        evidence["uid_reuse"] = entry.reuse
    if finding is not None and finding.total_frames > 1:
        evidence["frames"] = finding.total_frames
        evidence["held_frames"] = [
            {"frame": frame.number, "verdict": frame.verdict, "p_value": frame.p_value}
            for frame in finding.held_frames[:256]
        ]
    return evidence
