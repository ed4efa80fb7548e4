"""Structured logs: one JSON object a line on standard error.

What is logged of a request: its id, digests, verdicts, sizes, timings. Never a file name, a
header that a client chose freely, or anything that came out of an image's metadata.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any

import structlog


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
        structlog.processors.format_exc_info,
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
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries talk at info about themselves; what they warn of is worth a line.
    root.setLevel(max(threshold, logging.WARNING))
