"""The held images: list, read, fetch, and decide on."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field

from service.auth import Auth
from service.case_states import Event, State
from service.openapi import problems
from service.problems import ServiceProblem
from service.records import Records
from service.reviews import Conflict, NoCase, Reviews

CaseId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]


class ReviewAnswer(BaseModel):
    """One step of a case."""

    at: datetime
    by: str
    event: Event
    note: str | None


class CaseAnswer(BaseModel):
    """A held image and its evidence; ``/cases/{case_id}/image`` is the file."""

    case_id: str
    request_id: str
    opened_at: datetime
    state: State
    claimed_by: str | None = Field(description="who looks at it")
    model: str
    verdict: str
    route: str
    media_type: str
    evidence: dict[str, Any]


class CaseWithHistory(CaseAnswer):
    """A case with every step of its review."""

    reviews: list[ReviewAnswer]


class Opinion(BaseModel):
    """What a reviewer adds to a step."""

    note: str | None = Field(
        None, max_length=1000, description="Why, for whoever reads it later; never logged."
    )


def routes(records: Records, reviews: Reviews, auth: Auth) -> APIRouter:
    """The router of ``/cases``. The database is read off the event loop."""

    def reader(request: Request) -> str:
        return auth.case_reader(request)

    router = APIRouter(
        prefix="/cases", dependencies=[Depends(reader)], responses=problems(401, 403, 422)
    )

    @router.get("", summary="The newest cases")
    async def newest(
        state: Annotated[str | None, Query(max_length=16, pattern=r"^[a-z_]+$")] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> list[CaseAnswer]:
        found = await asyncio.to_thread(records.cases, state, limit)
        return [CaseAnswer.model_validate(case, from_attributes=True) for case in found]

    def with_history(case_id: str) -> CaseWithHistory:
        case = records.case(case_id)
        if case is None:
            raise ServiceProblem(404, "There is no such case.")
        answer = CaseAnswer.model_validate(case, from_attributes=True)
        steps = [
            ReviewAnswer.model_validate(step, from_attributes=True)
            for step in reviews.history(case_id)
        ]
        return CaseWithHistory(**answer.model_dump(), reviews=steps)

    @router.get("/{case_id}", summary="One case", responses=problems(404))
    async def one(case_id: CaseId) -> CaseWithHistory:
        return await asyncio.to_thread(with_history, case_id)

    @router.get("/{case_id}/image", summary="The file as it was sent", responses=problems(404))
    async def image(case_id: CaseId) -> Response:
        found = await asyncio.to_thread(records.case_image, case_id)
        if found is None:
            raise ServiceProblem(404, "There is no such case.")
        media_type, data = found
        if not data:
            raise ServiceProblem(404, "The file of this case is not kept any more (case_days).")
        # A stranger's file: a browser must neither guess its type nor run it in our origin.
        headers = {
            "X-Content-Type-Options": "nosniff",
            "Content-Disposition": "attachment",
            "Content-Security-Policy": "sandbox",
            "Cache-Control": "no-store",
        }
        return Response(data, media_type=media_type, headers=headers)

    def step(event: Event, summary: str) -> None:
        @router.post(
            f"/{{case_id}}/{event}", summary=summary, name=event, responses=problems(404, 409)
        )
        async def happen(
            request: Request, case_id: CaseId, opinion: Opinion | None = None
        ) -> CaseWithHistory:
            by = auth.reviewer(request)
            note = None if opinion is None else opinion.note
            try:
                await asyncio.to_thread(reviews.happen, case_id, event, by, note)
            except NoCase:
                raise ServiceProblem(404, "There is no such case.") from None
            except Conflict as conflict:
                raise ServiceProblem(409, str(conflict)) from None
            return await asyncio.to_thread(with_history, case_id)

    step(Event.CLAIM, "Take it, so that nobody else looks at it too")
    step(Event.RELEASE, "It was benign; calibration may learn from it")
    step(Event.CONFIRM, "Holding it was right; calibration never learns from it")
    return router
