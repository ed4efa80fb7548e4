"""``POST /diagnose``: admit, read, diagnose, record, answer."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from time import perf_counter
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute

from service.answers import Answer
from service.auth import ANONYMOUS
from service.body import read_upload
from service.gateway import Gateway
from service.guard import Guard
from service.identity import request_id_of
from service.openapi import DIAGNOSE
from service.problems import ServiceProblem
from service.question import HEADER, Question, seconds_allowed


async def handle(gateway: Gateway, request: Request, model: str | None) -> Answer:
    """Answer one request. Raises ``ServiceProblem``, which is on record by then."""
    question = Question(request_id_of(request), ANONYMOUS, perf_counter())
    guard: Guard | None = None
    try:
        question = replace(question, client=gateway.auth.client(request))
        question = question.within(seconds_allowed(request.headers.get(HEADER)))
        with gateway.admission.enter() as ticket:
            guard = gateway.guards.choose(model)
            upload = await read_upload(
                request, ticket, gateway.limits.file_bytes, gateway.body_seconds, question
            )
            return await gateway.judge(question, guard, upload, ticket)
    except ServiceProblem as problem:
        raise await gateway.refuse(question, guard, problem) from None


class _Direct(APIRoute):
    """A route that FastAPI documents and whose endpoint gets its one parameter, ``model``, without
    FastAPI's solving of dependencies, which takes as long as the rest of the routing."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handler(request: Request) -> Response:
            answered: Response = await self.endpoint(request, request.query_params.get("model"))
            return answered

        return handler


def routes(gateway: Gateway) -> APIRouter:
    """The router of ``POST /diagnose``."""
    router = APIRouter(route_class=_Direct)

    @router.post("/diagnose", response_model=Answer, **DIAGNOSE)
    async def post(
        request: Request,
        model: Annotated[
            str | None, Query(description="Which model, when several are loaded.")
        ] = None,
    ) -> Response:
        found = await handle(gateway, request, model)
        return Response(
            found.model_dump_json(),
            media_type="application/json",
            headers={"X-Request-ID": found.request_id, "Cache-Control": "no-store"},
        )

    return router
