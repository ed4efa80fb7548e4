"""The held images: list, read, fetch."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel

from service.auth import Auth
from service.openapi import problems
from service.problems import ServiceProblem
from service.records import Records

CaseId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]


class CaseAnswer(BaseModel):
    """A held image and its evidence; ``/cases/{case_id}/image`` is the file."""

    case_id: str
    request_id: str
    opened_at: datetime
    state: str
    model: str
    verdict: str
    route: str
    media_type: str
    evidence: dict[str, Any]


def routes(records: Records, auth: Auth) -> APIRouter:
    """The router of ``/cases``. The database is read off the event loop."""

    def client(request: Request) -> str:
        return auth.client(request)

    router = APIRouter(
        prefix="/cases", dependencies=[Depends(client)], responses=problems(401, 403, 422)
    )

    @router.get("", summary="The newest cases")
    async def newest(
        state: Annotated[str | None, Query(max_length=16, pattern=r"^[a-z_]+$")] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> list[CaseAnswer]:
        found = await asyncio.to_thread(records.cases, state, limit)
        return [CaseAnswer.model_validate(case, from_attributes=True) for case in found]

    @router.get("/{case_id}", summary="One case", responses=problems(404))
    async def one(case_id: CaseId) -> CaseAnswer:
        case = await asyncio.to_thread(records.case, case_id)
        if case is None:
            raise ServiceProblem(404, "There is no such case.")
        return CaseAnswer.model_validate(case, from_attributes=True)

    @router.get("/{case_id}/image", summary="The file as it was sent", responses=problems(404))
    async def image(case_id: CaseId) -> Response:
        found = await asyncio.to_thread(records.case_image, case_id)
        if found is None:
            raise ServiceProblem(404, "There is no such case.")
        media_type, data = found
        # A stranger's file: a browser must neither guess its type nor run it in our origin.
        headers = {
            "X-Content-Type-Options": "nosniff",
            "Content-Disposition": "attachment",
            "Content-Security-Policy": "sandbox",
            "Cache-Control": "no-store",
        }
        return Response(data, media_type=media_type, headers=headers)

    return router
