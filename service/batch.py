"""``POST /diagnose/batch``: many images in one request, answers as they are ready."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import replace
from time import perf_counter
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from service.admission import Ticket
from service.answers import Answer
from service.auth import ANONYMOUS
from service.batch_body import read_sources
from service.body import Source, read_body
from service.gateway import Gateway
from service.guard import Guard
from service.identity import request_id_of
from service.openapi import BATCH
from service.problems import ProblemDocument, ServiceProblem, document
from service.question import HEADER, Question, seconds_allowed

NDJSON = "application/x-ndjson"
SMALL = 2**20
"""Bytes of a body that is taken apart on the event loop; a larger one occupies a decoder."""


class BatchLine(BaseModel):
    """One line of the answer: an image's answer, or why it has none."""

    index: int
    """Which image, from 0, in the order in which they were sent."""
    status: int
    """What ``POST /diagnose`` would have answered for it."""
    answer: Answer | None = None
    problem: ProblemDocument | None = None


class _Answers(Response):
    """Judges while it sends. It owns the request's place, so that the place is given back however
    the sending ends."""

    def __init__(
        self,
        gateway: Gateway,
        question: Question,
        guard: Guard,
        sources: list[Source | ServiceProblem],
        place: ExitStack,
        ticket: Ticket,
    ) -> None:
        super().__init__(
            media_type=NDJSON,
            headers={"X-Request-ID": question.request_id, "Cache-Control": "no-store"},
        )
        del self.headers["Content-Length"]
        self._gateway, self._question, self._guard = gateway, question, guard
        self._sources, self._place, self._ticket = sources, place, ticket
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI's signature
        """Send a line as soon as its image is judged; stop when the caller has gone."""
        with self._place:
            judging = asyncio.create_task(self._judge())
            watching = asyncio.create_task(_gone(receive))
            watching.add_done_callback(lambda _: judging.cancel())
            try:
                head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                await send(head)
                while (lines := await self._next()) is not None:
                    await send({"type": "http.response.body", "body": lines, "more_body": True})
                if not judging.cancelled():
                    await judging
                    await send({"type": "http.response.body", "body": b""})
            finally:
                judging.cancel()
                watching.cancel()
                await asyncio.gather(judging, watching, return_exceptions=True)

    async def _judge(self) -> None:
        try:
            await self._gateway.judge_many(
                self._question, self._guard, self._sources, self._ticket, self._tell
            )
        finally:
            self._lines.put_nowait(None)

    def _tell(self, index: int, answered: Answer | ServiceProblem) -> bool:
        if isinstance(answered, Answer):
            line = BatchLine(index=index, status=200, answer=answered)
        else:
            name = self._question.part(index).request_id
            problem = document(answered.status, answered.detail, name)
            line = BatchLine(index=index, status=answered.status, problem=problem)
        self._lines.put_nowait(line.model_dump_json().encode() + b"\n")
        return True

    async def _next(self) -> bytes | None:
        """All lines that are ready, at least one; None after the last."""
        ready = [await self._lines.get()]
        while ready[-1] is not None and not self._lines.empty():
            ready.append(self._lines.get_nowait())
        if ready[-1] is None and len(ready) > 1:
            self._lines.put_nowait(None)
        return b"".join(line for line in ready if line is not None) or None


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


def routes(gateway: Gateway) -> APIRouter:
    """The router of ``POST /diagnose/batch``."""
    router = APIRouter()

    @router.post("/diagnose/batch", response_model=BatchLine, **BATCH)
    async def post(
        request: Request,
        model: Annotated[
            str | None, Query(description="Which model, when several are loaded.")
        ] = None,
    ) -> Response:
        return await _answer(gateway, request, model)

    return router


async def _answer(gateway: Gateway, request: Request, model: str | None) -> Response:
    question = Question(request_id_of(request), ANONYMOUS, perf_counter())
    guard: Guard | None = None
    try:
        question = replace(question, client=gateway.auth.client(request))
        question = question.within(seconds_allowed(request.headers.get(HEADER)))
        with ExitStack() as place:
            ticket = place.enter_context(gateway.admission.enter())
            guard = gateway.guards.choose(model)
            limit = gateway.request_bytes
            body = await read_body(request, ticket, limit, gateway.body_seconds, question)
            given = (body, request.headers.get("Content-Type"), gateway.request_images)
            if len(body) <= SMALL:
                sources = read_sources(*given)
            else:
                loop = asyncio.get_running_loop()
                sources = await loop.run_in_executor(gateway.decoders, read_sources, *given)
            return _Answers(gateway, question, guard, sources, place.pop_all(), ticket)
    except ServiceProblem as problem:
        raise await gateway.refuse(question, guard, problem) from None
