"""Spans to an OpenTelemetry collector, by OTLP over HTTP. Needs the ``otel`` extra."""

from __future__ import annotations

from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from service.trace_context import TraceContext
from service.tracing import Span, epoch_ns

PATH = "/v1/traces"
SCOPE = "lazaret"
SECONDS = 5.0
"""Longest time for the collector to take a batch, also when the service stops."""


class OtlpSpans:
    """Sends spans in batches from a thread of its own; what a full queue cannot take is lost.

    Args:
        endpoint: the collector's, such as ``http://collector:4318``.
        share: of the traces that begin here, how many are sent. What a caller decided is kept.
    """

    def __init__(self, endpoint: str, share: float) -> None:
        self._share = share
        self._resource = Resource.create(
            {"service.name": SCOPE, "service.version": version("lazaret")}
        )
        self._scope = InstrumentationScope(SCOPE, version("lazaret"))
        url = f"{endpoint.rstrip('/')}{PATH}"
        self._processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=SECONDS))

    def wanted(self, context: TraceContext) -> bool:
        """The caller's decision, else by the trace id, so that every system of ours agrees."""
        if context.sampled is not None:
            return context.sampled
        return int(context.trace_id[-14:], 16) < self._share * 16**14

    def send(self, span: Span) -> None:
        """Queue one."""
        parent = None
        if span.parent_id is not None:
            parent = _context(span.trace_id, span.parent_id, remote=span.server)
        self._processor.on_end(
            ReadableSpan(
                name=span.name,
                context=_context(span.trace_id, span.span_id),
                parent=parent,
                resource=self._resource,
                attributes=dict(span.attributes),
                kind=SpanKind.SERVER if span.server else SpanKind.INTERNAL,
                status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
                start_time=epoch_ns(span.started),
                end_time=epoch_ns(span.ended),
                instrumentation_scope=self._scope,
            )
        )

    def close(self) -> None:
        """Send what waits. Blocks."""
        self._processor.force_flush(round(1000 * SECONDS))
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # untyped in the library


def _context(trace_id: str, span_id: str, *, remote: bool = False) -> SpanContext:
    sampled = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int(trace_id, 16), int(span_id, 16), remote, sampled)
