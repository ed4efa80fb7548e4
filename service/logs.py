"""Structured logs: one JSON object a line on standard error, with the request's trace id.

What is logged of a request: its id, digests, verdicts, sizes, timings. Never a file name, a header
that a client chose freely, anything that came out of an image's metadata, or the text of an
exception, which quotes what it stumbled over: an error is its type and where it was raised. What
other libraries say is in their words, so it is logged only for those that never speak of content.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import MutableMapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import structlog

from service import trace_context

TRUSTED = ("uvicorn", "opentelemetry", "alembic")
"""Libraries whose log lines are about connections and servers, not about images. Of any other only
its name and the severity are logged."""
FRAMES = 12
"""Most frames of a logged traceback, the innermost."""


class _StandardError:
    """Writes lines. A log that cannot be written (its reader is gone) is lost; the thread that
    wrote it, which may be the engine's or the records', goes on."""

    def __init__(self, *_: object) -> None: ...

    def write(self, line: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    debug = info = warning = error = write


def configure(level: str) -> None:
    """Send our events and other libraries' through one JSON formatter."""
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        traced,
        without_text,
    ]
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_StandardError,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=[foreign, *shared],
            keep_exc_info=False,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries talk at info about themselves; what they warn of is worth a line.
    root.setLevel(max(threshold, logging.WARNING))
    warnings.showwarning = _warned


Event = MutableMapping[str, Any]


def traced(_: object, __: str, event: Event) -> Event:
    """Add the ids of the request that is worked for."""
    context = trace_context.current()
    if context is not None:
        event.setdefault("trace_id", context.trace_id)
        event.setdefault("span_id", context.span_id)
    return event


def without_text(_: object, __: str, event: Event) -> Event:
    """In place of an exception, its type and where it was raised."""
    given = event.pop("exc_info", None)
    error = sys.exception() if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event.setdefault("error", type(error).__name__)
        event["where"] = where(error.__traceback__)
    event.pop("exception", None)
    event.pop("stack_info", None)
    return event


def where(traceback: TracebackType | None) -> list[str]:
    """The innermost frames, as ``module:line function``."""
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        module = traceback.tb_frame.f_globals.get("__name__", "?")
        frames.append(f"{module}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return frames[-FRAMES:]


def foreign(_: object, __: str, event: Event) -> Event:
    """Another library's line: in its words only if it is trusted."""
    record: logging.LogRecord | None = event.get("_record")
    if record is None:
        return event
    event["logger"] = record.name
    if record.name.partition(".")[0] not in TRUSTED:
        event["event"] = "a library said something that is not logged"
    elif record.exc_info:
        # Its words may end with the exception's.
        event["event"] = str(record.msg).partition("\n")[0]
    return event


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,  # noqa: ARG001  the signature of ``warnings.showwarning``
    lineno: int,  # noqa: ARG001  # likewise
    file: Any = None,  # noqa: ARG001  # likewise
    line: str | None = None,  # noqa: ARG001  # likewise
) -> None:
    """A warning's text may quote the file that caused it."""
    del message
    structlog.get_logger().debug("warned", category=category.__name__)
