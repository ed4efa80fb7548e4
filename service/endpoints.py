"""``POST /diagnose``: admit, read, diagnose, record, answer."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Any
from uuid import uuid4

import structlog
from fastapi import APIRouter, Query, Request, Response

from models.imaging import ImageProblem, Limits
from service.admission import Admission, Ticket
from service.answers import Answer, answer, diagnosis, guard_answer
from service.auth import ANONYMOUS, Auth
from service.body import Upload, read_upload
from service.diagnose import Diagnosed, Timing, diagnose
from service.guard import Guard, Guards
from service.identity import request_id_of
from service.metrics import Metrics
from service.openapi import DIAGNOSE
from service.problems import ServiceProblem
from service.records import NewCase, Record, Records, RecordsProblem

UNRECORDED = (401, 403, 503)
"""Refusals that are counted and logged only: strangers and shed load must not fill the disk."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Everything that a diagnosis needs."""

    guards: Guards
    auth: Auth
    admission: Admission
    records: Records
    metrics: Metrics
    limits: Limits
    body_seconds: float
    decoders: Executor

    async def handle(self, request: Request, model: str | None) -> Answer:
        """Answer one request. Raises ``ServiceProblem``, which is on record by then."""
        started = perf_counter()
        client = ANONYMOUS
        guard: Guard | None = None
        try:
            client = self.auth.client(request)
            with self.admission.enter() as ticket:
                guard = self.guards.choose(model)
                return await self._judge(request, client, guard, ticket, started)
        except ImageProblem as problem:
            raise await self._refuse(
                request, client, guard, ServiceProblem.from_image(problem)
            ) from None
        except ServiceProblem as problem:
            raise await self._refuse(request, client, guard, problem) from None

    async def _judge(
        self, request: Request, client: str, guard: Guard, ticket: Ticket, started: float
    ) -> Answer:
        upload = await read_upload(request, ticket, self.limits.file_bytes, self.body_seconds)
        found = await diagnose(upload, guard, self.limits, self.decoders, ticket.hold)
        record = record_of(request_id_of(request), client, guard, found, upload)
        judged = perf_counter()
        await self._write(record)
        now = perf_counter()
        timing = found.timing.recorded(now - judged, now - started)
        self._tell(record, guard, found, timing)
        case_id = record.case.case_id if record.case else None
        return answer(record.request_id, guard, found, case_id, timing)

    async def _refuse(
        self, request: Request, client: str, guard: Guard | None, problem: ServiceProblem
    ) -> ServiceProblem:
        """Record and count a refusal; what to raise for it."""
        request_id = request_id_of(request)
        if problem.status not in UNRECORDED:
            model = guard.model.name if guard else None
            bundle = guard.bundle.digest if guard else None
            try:
                await self._write(
                    Record(request_id, client, problem.status, problem.kind, model, bundle)
                )
            except ServiceProblem as unrecorded:
                problem = unrecorded
        self.metrics.refused(problem.kind)
        structlog.get_logger().info(
            "refused", request_id=request_id, client=client, status=problem.status,
            problem=problem.kind,
        )  # fmt: skip
        return problem

    async def _write(self, record: Record) -> None:
        try:
            await self.records.write(record)
        except RecordsProblem:
            self.metrics.not_recorded()
            raise ServiceProblem(
                503, "The answer cannot be recorded, so it is withheld; try again."
            ) from None

    def _tell(self, record: Record, guard: Guard, found: Diagnosed, timing: Timing) -> None:
        stages = timing.milliseconds()
        self.metrics.judged(guard.model.name, found.decision, found.p.fused, found.batch, stages)
        log = structlog.get_logger()
        (log.warning if found.decision.bypass else log.info)(
            "bypassed" if found.decision.bypass else "judged",
            request_id=record.request_id,
            client=record.client,
            model=record.model,
            verdict=record.verdict,
            route=record.route,
            pixels=record.pixels,
            case_id=record.case.case_id if record.case else None,
            timing_ms=stages,
        )


def record_of(
    request_id: str, client: str, guard: Guard, found: Diagnosed, upload: Upload
) -> Record:
    """What is kept of an answer; with a case when the image is held."""
    said = diagnosis(guard, found)
    judged = guard_answer(guard, found, found.decision)
    detectors: list[dict[str, Any]] = [entry.model_dump() for entry in judged.detectors]
    decision = found.decision
    case = None
    if decision.held:
        assert decision.route is not None  # every held image has its reason
        case = NewCase(
            case_id=uuid4().hex,
            route=decision.route,
            evidence={
                "bundle": guard.bundle.digest,
                "diagnosis": said.model_dump(),
                "guard": judged.model_dump(),
                "pixels": found.image.digest,
                "decoding": list(found.image.notes),
            },
            media_type=found.image.media_type,
            image=upload.data,
        )
    return Record(
        request_id=request_id,
        client=client,
        status=200,
        model=guard.model.name,
        bundle=guard.bundle.digest,
        verdict=decision.verdict,
        route=decision.route,
        reason=decision.reason,
        bypass=decision.bypass,
        label=said.label,
        probabilities=dict(said.probabilities),
        p_value=judged.p_value,
        quality_p_value=judged.quality_p_value,
        detectors=detectors,
        pixels=found.image.digest,
        media_type=found.image.media_type,
        timing_ms=found.timing.milliseconds(),
        case=case,
    )


def routes(gateway: Gateway) -> APIRouter:
    """The router of ``POST /diagnose``."""
    router = APIRouter()

    @router.post("/diagnose", response_model=Answer, **DIAGNOSE)
    async def post(
        request: Request,
        model: Annotated[
            str | None, Query(description="Which model, when several are loaded.")
        ] = None,
    ) -> Response:
        found = await gateway.handle(request, model)
        return Response(
            found.model_dump_json(),
            media_type="application/json",
            headers={"X-Request-ID": found.request_id, "Cache-Control": "no-store"},
        )

    return router
