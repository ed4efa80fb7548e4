"""The gateway: every door (HTTP, the inference protocol, gRPC) brings its images here.

One image after the other is diagnosed, recorded, counted and answered; a door only reads what it
was sent and says the answer in its own words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any
from uuid import uuid4

import structlog

from detectors.query_sequence import POINT
from models.imaging import ImageProblem, Limits
from models.imaging.encode import png
from service import trace_context
from service.admission import Admission, Ticket
from service.answers import Answer, Said, answer, finite
from service.auth import Auth
from service.body import Source, Upload
from service.decide import Response, with_history
from service.diagnose import Diagnosed, Timing, diagnose
from service.guard import Guard, Guards
from service.metrics import GatewayMetrics
from service.problems import ServiceProblem, kind_of
from service.query_history import QueryHistory
from service.question import Question
from service.records import NewCase, Record, Records, RecordsProblem
from service.tracing import Spans, told

UNRECORDED = (401, 403, 503, 504)
"""Refusals that are counted and logged only: strangers and shed load must not fill the disk."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Everything that a diagnosis needs."""

    guards: Guards
    auth: Auth
    admission: Admission
    records: Records
    metrics: GatewayMetrics
    limits: Limits
    request_images: int
    """Most images of one request."""
    request_bytes: int
    """Most bytes of a request of several images."""
    body_seconds: float
    decoders: Executor
    history: QueryHistory | None
    response: Response
    """To an attack that the history sees."""
    spans: Spans | None = None
    """Where traces go."""

    async def judge(
        self, question: Question, guard: Guard, source: Source, ticket: Ticket
    ) -> Answer:
        """One image: diagnosed, on record, answered.

        Args:
            ticket: accounts for the decoded image.

        Raises:
            ServiceProblem: a refusal, not on record yet: give it to ``refuse``.
        """
        received = perf_counter()
        try:
            told = await diagnose(
                source, guard, self.limits, self.decoders, question, ticket.hold, self.history
            )
        except ImageProblem as problem:
            raise ServiceProblem.from_image(problem) from None
        found = await self._with_history(question, told)
        attack, silent = found.sight.attack, self.response == "silent"
        file = None
        # One incident a series. Where the attacker must not notice, what is held for another
        # reason has its own case as ever.
        if found.decision.held and (
            not attack or found.sight.first or (silent and told.decision.held)
        ):
            file = await self._as_file(source)
        said = Said.of(guard, found)
        record = record_of(question, guard, found, said, file)
        if attack and self.response == "throttle":
            record = replace(record, status=429, problem=kind_of(429))
        judged = perf_counter()
        try:
            await self._write(record)
        except ServiceProblem:
            if found.sight.first and self.history is not None:
                await self.history.withdraw(found.sight)
            raise
        now = perf_counter()
        timing = found.timing.recorded(now - judged, now - question.started)
        if attack and self.response == "throttle":
            raise self._throttled(question, record)
        self.tell(question, record, guard, found, timing, received - question.started)
        shown = told.decision if silent else found.decision
        case_id = record.case_id if shown.held else None
        return answer(record.request_id, guard, shown, said, case_id, timing)

    async def _with_history(self, question: Question, found: Diagnosed) -> Diagnosed:
        """What the queries before this one make of it."""
        if self.history is None or found.mark is None:
            return found
        started = perf_counter()
        sight = await self.history.link(found.mark, found.p.predicted, question.client)
        if sight.first:
            self.metrics.incident("query_attack")
        return replace(
            found,
            decision=with_history(found.decision, sight, self.response),
            sight=sight,
            timing=found.timing.decided(perf_counter() - started),
        )

    def _throttled(self, question: Question, record: Record) -> ServiceProblem:
        """The recorded refusal of a query of an attack."""
        problem = ServiceProblem(
            429, "Too many questions about one picture. Ask again later, or about another."
        )
        problem.recorded = True
        self.metrics.refused(question.interface, problem.status, problem.kind)
        structlog.get_logger().warning(
            "throttled", request_id=record.request_id, client=record.client, model=record.model,
            route=record.route, pixels=record.pixels, case_id=record.case_id,
        )  # fmt: skip
        return problem

    async def judge_each(
        self, question: Question, guard: Guard, sources: Sequence[Source], ticket: Ticket
    ) -> list[Answer | ServiceProblem]:
        """Several images of one request, each by an id of its own; one that is refused fails
        alone.

        Raises:
            ServiceProblem: 503 or 504, as soon as one image meets it: the caller should ask again
                for them all. The other images' answers are on record.
        """
        found: dict[int, Answer | ServiceProblem] = {}

        def keep(index: int, answered: Answer | ServiceProblem) -> bool:
            found[index] = answered
            return not _overload(answered)

        await self.judge_many(question, guard, sources, ticket, keep)
        for answered in found.values():
            if isinstance(answered, ServiceProblem) and _overload(answered):
                raise answered
        return [found[index] for index in range(len(sources))]

    async def judge_many(
        self,
        question: Question,
        guard: Guard,
        sources: Sequence[Source | ServiceProblem],
        ticket: Ticket,
        tell: Callable[[int, Answer | ServiceProblem], bool],
    ) -> None:
        """Several images of one request. ``tell`` gets each one's index and answer, or recorded
        refusal, in the order of completion; once it says False no other image is begun."""
        # As many at once as fill the next batch while one runs: more would crowd others out.
        places = ticket.widen(min(len(sources), 2 * guard.batcher.batch_images))
        waiting = iter(range(len(sources)))
        going = True

        async def worker() -> None:
            nonlocal going
            for index in waiting:
                if not going:
                    return
                one = question.part(index) if len(sources) > 1 else question
                with ticket.inner() as held:
                    answered = await self.judge_alone(one, guard, sources[index], held)
                going = tell(index, answered) and going

        async with asyncio.TaskGroup() as workers:
            for _ in range(places):
                workers.create_task(worker())

    async def judge_alone(
        self, question: Question, guard: Guard, source: Source | ServiceProblem, ticket: Ticket
    ) -> Answer | ServiceProblem:
        """``judge``; a refusal, also one that stands in the image's place, is recorded and
        returned."""
        try:
            if isinstance(source, ServiceProblem):
                raise source
            return await self.judge(question, guard, source, ticket)
        except ServiceProblem as problem:
            return await self.refuse(question, guard, problem)

    async def refuse(
        self, question: Question, guard: Guard | None, problem: ServiceProblem
    ) -> ServiceProblem:
        """Record and count a refusal; what to raise for it."""
        if problem.recorded:
            return problem
        if problem.status not in UNRECORDED:
            model = guard.model.name if guard else None
            bundle = guard.bundle.digest if guard else None
            record = Record(
                question.request_id, question.client, problem.status, problem.kind, model, bundle
            )
            try:
                await self._write(record)
            except ServiceProblem as unrecorded:
                problem = unrecorded
        problem.recorded = True
        self.metrics.refused(question.interface, problem.status, problem.kind, problem.shed)
        structlog.get_logger().info(
            "refused", request_id=question.request_id, client=question.client,
            status=problem.status, problem=problem.kind,
        )  # fmt: skip
        return problem

    async def _as_file(self, source: Source) -> bytes:
        """What a reviewer will open: the file as sent, or raw pixels as a PNG."""
        if isinstance(source, Upload):
            return source.data
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.decoders, png, source.pixels)

    async def _write(self, record: Record) -> None:
        try:
            await self.records.write(record)
        except RecordsProblem:
            self.metrics.not_recorded()
            raise ServiceProblem(
                503, "The answer cannot be recorded, so it is withheld; try again."
            ) from None

    def tell(
        self,
        question: Question,
        record: Record,
        guard: Guard,
        found: Diagnosed,
        timing: Timing,
        receive: float,
    ) -> None:
        """Count and log one verdict, once it is on record."""
        stages = timing.milliseconds()
        spent = {**stages, "receive": 1000 * receive}
        trace = trace_context.current()
        self.metrics.judged(
            guard, question.interface, found.decision, found.p, found.batch, spent,
            trace.trace_id if trace else None, found.second_score is not None,
        )  # fmt: skip
        if self.spans is not None:
            self._trace(question, guard, found, timing, receive)
        log = structlog.get_logger()
        (log.warning if found.decision.bypass else log.info)(
            "bypassed" if found.decision.bypass else "judged",
            request_id=record.request_id,
            client=record.client,
            model=record.model,
            verdict=record.verdict,
            route=record.route,
            pixels=record.pixels,
            case_id=record.case_id,
            timing_ms=stages,
        )

    def _trace(
        self, question: Question, guard: Guard, found: Diagnosed, timing: Timing, receive: float
    ) -> None:
        told(
            self.spans,
            "diagnosis",
            question.started,
            {
                "receive": receive, "decode": timing.decode, "queue": timing.queue,
                "infer": timing.infer, "decide": timing.decide, "record": timing.record,
            },
            {
                "lazaret.interface": question.interface,
                "lazaret.model": guard.model.name,
                "lazaret.verdict": str(found.decision.verdict),
                "lazaret.route": str(found.decision.route or "none"),
                "lazaret.batch": found.batch,
            },
        )  # fmt: skip


def _overload(answered: Answer | ServiceProblem) -> bool:
    """Whether the caller should ask again, for this image and any other."""
    return isinstance(answered, ServiceProblem) and answered.status >= 500


def record_of(
    question: Question, guard: Guard, found: Diagnosed, said: Said, file: bytes | None
) -> Record:
    """What is kept of an answer; with a case that holds ``file`` if there is one."""
    detectors = said.detectors
    if said.second_stage is not None:
        second = {"name": "second_stage", "score": said.second_stage, "p_value": said.p_value}
        detectors = [*detectors, second]
    decision, sight = found.decision, found.sight
    case, case_id = None, sight.incident if sight.attack else None
    if file is not None:
        assert decision.route is not None  # every held image has its reason
        if case_id is None or not sight.first:
            case_id = uuid4().hex
        evidence: dict[str, Any] = {
            "bundle": guard.bundle.digest,
            "diagnosis": said.diagnosis(),
            "guard": said.guard(guard.policy, decision),
            "pixels": found.image.digest,
            "decoding": list(found.image.notes),
            "decoded": found.image.decoding.record(),
        }
        if sight.attack:
            evidence["queries"] = {
                "incident": sight.incident,
                "images": sight.queries,
                "flips": sight.flips,
                "senders": sight.senders,
                "evidence": round(sight.points / POINT, 2),
            }
        case = NewCase(
            case_id=case_id,
            route=decision.route,
            evidence=evidence,
            media_type=found.file_type,
            image=file,
        )
    return Record(
        request_id=question.request_id,
        client=question.client,
        status=200,
        model=guard.model.name,
        bundle=guard.bundle.digest,
        verdict=decision.verdict,
        route=decision.route,
        reason=decision.reason,
        bypass=decision.bypass,
        label=said.label,
        probabilities=said.probabilities,
        p_value=said.p_value,
        quality_p_value=said.quality_p_value,
        fused_score=finite(float(found.readings.fused[0])),
        quality_score=finite(float(found.readings.quality[0])),
        detectors=detectors,
        pixels=found.image.digest,
        decoding=found.image.decoding.fingerprint,
        media_type=found.image.media_type,
        timing_ms=found.timing.milliseconds(),
        case_id=case_id,
        case=case,
    )
