"""By which ids one request is followed from system to system: W3C Trace Context.

Always on, whether or not spans are sent anywhere: answers, log lines and exemplars carry the same
trace id. Source: *Trace Context*, W3C Recommendation of 23 November 2021, section 3.2.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

HEADER = "traceparent"
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where in a trace we are."""

    trace_id: str
    """32 hex digits."""
    span_id: str
    """16 hex digits: of what we are doing."""
    parent_id: str | None
    """Of what the caller was doing; None where the trace begins here."""
    sampled: bool | None
    """What the caller decided; None leaves it to us."""
    served: bool = False
    """Whether what we are doing gets a span of its own, under which others belong."""

    @property
    def above(self) -> str | None:
        """The span that a span of ours is put under."""
        return self.span_id if self.served else self.parent_id

    def header(self) -> str:
        """Our ``traceparent``, for the answer and for what we call."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled is not False):02x}"


_current: ContextVar[TraceContext | None] = ContextVar("trace", default=None)


def current() -> TraceContext | None:
    """What this task or thread is working for."""
    return _current.get()


def next_context(traceparent: str | None, *, served: bool = False) -> TraceContext:
    """The context of a request that came with this header; of a new trace where there is none or
    it is malformed. Nothing of the header but hex digits is kept."""
    found = _FORM.fullmatch(traceparent) if traceparent and len(traceparent) <= 256 else None
    if found is not None:
        version, trace_id, parent_id, flags, more = found.groups()
        plain = version != "ff" and not (version == "00" and more)
        if plain and trace_id != 32 * "0" and parent_id != 16 * "0":
            sampled = bool(int(flags, 16) & _SAMPLED)
            return TraceContext(trace_id, new_span_id(), parent_id, sampled, served)
    return TraceContext(f"{random.getrandbits(128):032x}", new_span_id(), None, None, served)


def new_span_id() -> str:
    """16 random hex digits. Trace ids are no secrets, and asking the system for random bytes gives
    up the interpreter's lock, for which the event loop then queues with all decoding threads."""
    return f"{random.getrandbits(64):016x}"


@contextmanager
def followed(traceparent: str | None = None, *, served: bool = False) -> Iterator[TraceContext]:
    """Work in a request's context: for every door but HTTP, which ``tracing.Traced`` opens."""
    context = next_context(traceparent, served=served)
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
