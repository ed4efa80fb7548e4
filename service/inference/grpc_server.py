"""The protocol over gRPC: ``inference.GRPCInferenceService``. Imported only where a port is set.

Keys, bounds, records and deadlines are those of HTTP. The key travels as ``authorization`` and the
request's id as ``x-request-id`` in the call's metadata; the call's own deadline is kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import Any

import grpc
import structlog

from service import trace_context
from service.auth import ANONYMOUS
from service.body import Source, Upload
from service.gateway import Gateway
from service.guard import Guard
from service.identity import plain_id
from service.inference import describe
from service.inference.body import Inference, seconds_of
from service.inference.images import (
    check_input,
    files_of,
    malformed,
    pixels_of,
    pixels_of_numbers,
)
from service.inference.outputs import (
    Parameter,
    check_names,
    names_or_all,
    outputs_of,
    parameters_of,
)
from service.inference.protocol import open_inference_pb2 as pb
from service.problems import ServiceProblem
from service.question import Question

INTERFACE = "grpc"
SERVICE = "inference.GRPCInferenceService"
ENVELOPE_BYTES = 64 * 2**10
"""What a message may add around its images."""
METADATA_BYTES = 16 * 2**10
KEYED = ("ModelMetadata", "ModelInfer")
"""Calls that need a key; probes are open, as over HTTP."""

_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

Call = Callable[[Any, Any], Awaitable[Any]]


async def start(gateway: Gateway, host: str, port: int, most_calls: int) -> grpc.aio.Server:
    """A listening server on the running loop. Raises ``OSError`` when the address cannot be had.

    Args:
        most_calls: at once; the next is refused.
    """
    server = grpc.aio.server(
        interceptors=[_Keys(gateway)],
        maximum_concurrent_rpcs=most_calls,
        options=[
            ("grpc.max_receive_message_length", gateway.request_bytes + ENVELOPE_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", METADATA_BYTES),
        ],
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(SERVICE, _handlers(gateway))]
    )
    address = f"[{host}]" if ":" in host else host
    try:
        bound = server.add_insecure_port(f"{address}:{port}")
    except RuntimeError:
        bound = 0
    if not bound:
        raise OSError(f"cannot listen on {host} port {port}")
    await server.start()
    structlog.get_logger().info("listening for gRPC", host=host, port=bound)
    return server


def _handlers(gateway: Gateway) -> dict[str, Any]:
    calls: dict[str, tuple[Call, Any]] = {
        "ServerLive": (_live, pb.ServerLiveRequest),
        "ServerReady": (_told(_server_ready, gateway), pb.ServerReadyRequest),
        "ModelReady": (_told(_model_ready, gateway), pb.ModelReadyRequest),
        "ServerMetadata": (_server, pb.ServerMetadataRequest),
        "ModelMetadata": (_told(_model, gateway), pb.ModelMetadataRequest),
        "ModelInfer": (_told(_infer, gateway), pb.ModelInferRequest),
    }
    return {
        name: grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=kind.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        for name, (call, kind) in calls.items()
    }


def _told(call: Callable[[Gateway, Any, Any], Awaitable[Any]], gateway: Gateway) -> Call:
    """The call, with refusals as statuses."""

    async def answered(request: Any, context: Any) -> Any:
        given = _metadata(context.invocation_metadata(), trace_context.HEADER)
        with trace_context.followed(given) as trace:
            ids = ((trace_context.HEADER, trace.header()),)
            with suppress(ValueError):  # the caller has gone
                context.set_trailing_metadata(ids)
            try:
                return await call(gateway, request, context)
            except ServiceProblem as problem:
                code = _CODES.get(problem.status, grpc.StatusCode.INVALID_ARGUMENT)
                await context.abort(code, problem.detail, ids)

    return answered


class _Keys(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # the library is untyped
    """Refuses a call without a key before its message is read."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Let the call by, or answer it."""
        if details.method.rpartition("/")[2] in KEYED:
            try:
                self._gateway.auth.by_key(_metadata(details.invocation_metadata, "authorization"))
            except ServiceProblem as problem:
                self._gateway.metrics.refused(INTERFACE, problem.status, problem.kind)
                return _refusal(problem)
        return await continuation(details)


def _refusal(problem: ServiceProblem) -> Any:
    async def refused(_: Any, context: Any) -> None:
        await context.abort(_CODES[problem.status], problem.detail)

    return grpc.unary_unary_rpc_method_handler(refused)


async def _live(_: Any, __: Any) -> Any:
    return pb.ServerLiveResponse(live=True)


async def _server(_: Any, __: Any) -> Any:
    return pb.ServerMetadataResponse(name=describe.SERVER, version=describe.server_version())


async def _server_ready(gateway: Gateway, _: Any, __: Any) -> Any:
    guards = gateway.guards.all
    return pb.ServerReadyResponse(ready=bool(guards) and all(g.batcher.ready for g in guards))


async def _model_ready(gateway: Gateway, request: Any, _: Any) -> Any:
    guard = describe.named(gateway.guards, request.name, request.version)
    return pb.ModelReadyResponse(ready=guard.batcher.ready)


async def _model(gateway: Gateway, request: Any, _: Any) -> Any:
    guard = describe.named(gateway.guards, request.name, request.version)

    def tensors(declared: Sequence[describe.Tensor]) -> list[Any]:
        return [
            pb.ModelMetadataResponse.TensorMetadata(
                name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
            )
            for tensor in declared
        ]

    return pb.ModelMetadataResponse(
        name=guard.model.name,
        versions=[guard.model.version],
        platform=describe.PLATFORM,
        inputs=tensors(describe.inputs()),
        outputs=tensors(describe.outputs(guard)),
    )


async def _infer(gateway: Gateway, request: Any, context: Any) -> Any:
    metadata = context.invocation_metadata()
    request_id = plain_id(_metadata(metadata, "x-request-id"), request.id)
    left = context.time_remaining()
    question = Question(request_id, ANONYMOUS, perf_counter(), interface=INTERFACE).within(left)
    guard: Guard | None = None
    try:
        client = gateway.auth.by_key(_metadata(metadata, "authorization"))
        question = replace(question, client=client)
        with gateway.admission.enter() as ticket:
            ticket.hold(request.ByteSize())
            guard = describe.named(gateway.guards, request.model_name, request.model_version)
            asked = read_inference(request, gateway.request_images)
            question = question.within(asked.seconds)
            answers = await gateway.judge_each(question, guard, asked.images, ticket)
            outputs = outputs_of(answers, guard, names_or_all(asked.names))
    except ServiceProblem as problem:
        raise await gateway.refuse(question, guard, problem) from None
    response = pb.ModelInferResponse(
        model_name=guard.model.name,
        model_version=guard.model.version,
        id=request.id,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name=output.name, datatype=output.datatype, shape=output.shape
            )
            for output in outputs
        ],
        raw_output_contents=[output.raw() for output in outputs],
    )
    for name, value in parameters_of(answers, guard).items():
        response.parameters[name].CopyFrom(_parameter(value))
    with suppress(ValueError):  # the caller has gone
        ids = (*context.trailing_metadata(), ("x-request-id", question.request_id))
        context.set_trailing_metadata(ids)
    return response


def read_inference(request: Any, most: int) -> Inference:
    """Take a ``ModelInferRequest`` apart. Raises ``ServiceProblem`` 400 or 413."""
    if len(request.inputs) != 1:
        raise malformed(f"The model has one input, not {len(request.inputs)}.")
    given = request.inputs[0]
    shape = list(given.shape)
    check_input(given.name, given.datatype, shape, most)
    names = tuple(output.name for output in request.outputs)
    check_names(names)
    parameters = {name: _value(value) for name, value in request.parameters.items()}
    if parameters.get("sequence_id") or "shared_memory_region" in given.parameters:
        raise malformed("Sequences and shared memory are not offered; send the tensor itself.")
    return Inference(
        id=request.id,
        images=_images(request, given, shape),
        names=names,
        seconds=seconds_of(parameters.get("timeout")),
    )


def _images(request: Any, given: Any, shape: list[int]) -> list[Source]:
    contents = given.contents
    files = given.datatype == "BYTES"
    if request.raw_input_contents:
        if len(request.raw_input_contents) != 1 or given.HasField("contents"):
            raise malformed("Send the input once: in raw_input_contents or in its contents.")
        raw = request.raw_input_contents[0]
        return files_of(raw, shape[0]) if files else pixels_of(raw, shape)
    if not files:
        return pixels_of_numbers(list(contents.uint_contents), shape)
    if len(contents.bytes_contents) != shape[0]:
        raise malformed(
            f"The input holds {len(contents.bytes_contents)} files, but its shape says {shape[0]}."
        )
    return [Upload(data, None) for data in contents.bytes_contents]


def _metadata(pairs: Any, name: str) -> str:
    """The first value of a key in a call's metadata, or nothing."""
    for key, value in pairs or ():
        if key == name and isinstance(value, str):
            return value
    return ""


def _value(parameter: Any) -> object:
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)


def _parameter(value: Parameter) -> Any:
    if isinstance(value, str):
        return pb.InferParameter(string_param=value)
    if isinstance(value, int):
        return pb.InferParameter(int64_param=value)
    return pb.InferParameter(double_param=value)
