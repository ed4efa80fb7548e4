"""Traces: every request has ids; where a collector is set, spans of what it took are sent there.

The walk measures its stages anyway, so a diagnosis's spans are made after the fact from these times
and cost nothing where they are not wanted. A span's names and attributes come from fixed sets and
configuration, like a metric's labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter, time_ns
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import trace_context
from service.trace_context import TraceContext, new_span_id

Attributes = Mapping[str, str | int | float | bool]

UNTRACED = ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")
"""Routes that are polled for ever and tell nothing."""
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Span:
    """One thing that took time."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    started: float
    """``perf_counter`` seconds."""
    ended: float
    attributes: Attributes
    server: bool = False
    """Whether it is our side of somebody's request."""
    failed: bool = False


class Spans(Protocol):
    """Where spans go. Must return at once and never raise."""

    def wanted(self, context: TraceContext) -> bool:
        """Whether this trace's spans are sent."""
        ...

    def send(self, span: Span) -> None:
        """Send one, some time."""
        ...

    def close(self) -> None:
        """Send what waits. Blocks."""
        ...


def epoch_ns(at: float) -> int:
    """``perf_counter`` seconds as nanoseconds since 1970."""
    return time_ns() - round((perf_counter() - at) * 1e9)


def told(
    spans: Spans | None,
    name: str,
    started: float,
    stages: Mapping[str, float],
    attributes: Attributes,
) -> None:
    """Send one image's span, and under it one a stage, in their order from ``started`` on.

    Args:
        name: what was done, in fixed words.
        started: ``perf_counter`` seconds.
        stages: seconds by stage.
    """
    context = trace_context.current()
    if spans is None or context is None or not spans.wanted(context):
        return
    whole = new_span_id()
    at = started
    for stage, seconds in stages.items():
        spans.send(Span(stage, context.trace_id, new_span_id(), whole, at, at + seconds, {}))
        at += seconds
    spans.send(
        Span(name, context.trace_id, whole, context.above, started, perf_counter(), attributes)
    )


class Traced:
    """ASGI middleware: takes the caller's ``traceparent`` or begins a trace, works in its context,
    and returns ours."""

    def __init__(self, app: ASGIApp, spans: Spans | None = None) -> None:
        self._app = app
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application in the request's context."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((v for name, v in scope["headers"] if name == b"traceparent"), b"")
        started = perf_counter()
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ours = (b"traceparent", context.header().encode())
                message["headers"] = [*message.get("headers", ()), ours]
            await send(message)

        with trace_context.followed(given.decode("latin-1"), served=True) as context:
            try:
                await self._app(scope, receive, sending)
            finally:
                self._tell(scope, context, started, status)

    def _tell(self, scope: Scope, context: TraceContext, started: float, status: int) -> None:
        if self._spans is None or not self._spans.wanted(context):
            return
        # The template that matched, never the path that was asked for.
        route = getattr(scope.get("route"), "path", "none")
        if route in UNTRACED:
            return
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._spans.send(
            Span(
                name=f"{method} {route}",
                trace_id=context.trace_id,
                span_id=context.span_id,
                parent_id=context.parent_id,
                started=started,
                ended=perf_counter(),
                attributes={
                    "http.request.method": method,
                    "http.route": route,
                    "http.response.status_code": status,
                },
                server=True,
                failed=status >= 500,
            )
        )
