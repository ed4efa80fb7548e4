"""``/v2``: the protocol's addresses over HTTP."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from time import perf_counter
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from service.auth import ANONYMOUS
from service.body import read_body
from service.gateway import Gateway
from service.guard import Guard
from service.identity import adopt, request_id_of
from service.inference import describe
from service.inference.body import HEADER_LENGTH, Inference, read_inference, write_answer
from service.inference.outputs import names_or_all, outputs_of, parameters_of
from service.openapi import INFER
from service.problems import ServiceProblem
from service.question import HEADER, Question, seconds_allowed

SMALL = 64 * 2**10
"""Bytes of JSON that are parsed on the event loop; more is parsed by a decoder."""


def routes(gateway: Gateway) -> APIRouter:
    """The router. Health is open, as the other probes are; metadata and inference need a key."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
    guards = gateway.guards

    @router.get("", summary="Server metadata")
    async def server() -> dict[str, Any]:
        return {
            "name": describe.SERVER,
            "version": describe.server_version(),
            "extensions": list(describe.EXTENSIONS),
        }

    @router.get("/health/live", summary="The process answers")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready", summary="Every model is ready, else 400")
    async def ready() -> Response:
        warm = bool(guards.all) and all(guard.batcher.ready for guard in guards.all)
        return JSONResponse({"ready": warm}, 200 if warm else 400)

    async def model(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
        gateway.auth.client(request)
        guard = describe.named(guards, name, version)
        return {
            "name": guard.model.name,
            "versions": [guard.model.version],
            "platform": describe.PLATFORM,
            "inputs": [asdict(tensor) for tensor in describe.inputs()],
            "outputs": [asdict(tensor) for tensor in describe.outputs(guard)],
        }

    async def model_ready(name: str, version: str | None = None) -> Response:
        guard = describe.named(guards, name, version)
        warm = guard.batcher.ready
        document = {"name": guard.model.name, "ready": warm}
        return JSONResponse(document, 200 if warm else 400)

    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        return await _infer(gateway, request, name, version)

    for prefix in ("/models/{name}", "/models/{name}/versions/{version}"):
        router.get(prefix, summary="Model metadata")(model)
        router.get(f"{prefix}/ready", summary="The model is ready, else 400")(model_ready)
        router.post(f"{prefix}/infer", **INFER)(infer)
    return router


async def _infer(gateway: Gateway, request: Request, name: str, version: str | None) -> Response:
    question = Question(request_id_of(request), ANONYMOUS, perf_counter(), interface="inference")
    guard: Guard | None = None
    try:
        question = replace(question, client=gateway.auth.client(request))
        question = question.within(seconds_allowed(request.headers.get(HEADER)))
        with gateway.admission.enter() as ticket:
            guard = describe.named(gateway.guards, name, version)
            if request.headers.get("Content-Encoding", "identity") != "identity":
                raise ServiceProblem(415, "Send the request uncompressed.")
            body = await read_body(
                request, ticket, gateway.request_bytes, gateway.body_seconds, question
            )
            asked = await _read(gateway, body, request.headers.get(HEADER_LENGTH))
            question = question.within(asked.seconds)
            adopt(request, asked.id)
            question = replace(question, request_id=request_id_of(request))
            answers = await gateway.judge_each(question, guard, asked.images, ticket)
            outputs = outputs_of(answers, guard, names_or_all(asked.names))
    except ServiceProblem as problem:
        raise await gateway.refuse(question, guard, problem) from None
    head = {"model_name": guard.model.name, "model_version": guard.model.version}
    if asked.id is not None:
        head["id"] = asked.id
    content, json_bytes = write_answer(head, outputs, parameters_of(answers, guard), asked)
    headers = {"X-Request-ID": question.request_id, "Cache-Control": "no-store"}
    if json_bytes is None:
        return Response(content, media_type="application/json", headers=headers)
    headers[HEADER_LENGTH] = str(json_bytes)
    return Response(content, media_type="application/octet-stream", headers=headers)


async def _read(gateway: Gateway, body: bytes, header_length: str | None) -> Inference:
    most = gateway.request_images
    if len(body) <= SMALL or (header_length is not None and len(header_length) <= len(str(SMALL))):
        return read_inference(body, header_length, most)
    # A JSON list of pixels takes tens of milliseconds to parse.
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(gateway.decoders, read_inference, body, header_length, most)
