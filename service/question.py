"""Who asks, by what id, since when and until when."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Self
from uuid import uuid4

from service.problems import ServiceProblem

HEADER = "X-Request-Timeout"
LONGEST_SECONDS = 3600.0
LONGEST_ID = 128


@dataclass(frozen=True, slots=True)
class Question:
    """One image that somebody wants diagnosed, as far as it concerns records and clocks."""

    request_id: str
    client: str
    started: float
    """``perf_counter`` seconds at the request's head."""
    deadline: float | None = None
    """``perf_counter`` seconds after which nobody waits for the answer."""
    interface: str = "diagnose"
    """The door it came through, one of ``service.metrics.labels.INTERFACE``."""

    def part(self, index: int) -> Question:
        """The same for one image of several: its id says which."""
        name = f"{self.request_id}.{index}"
        return replace(self, request_id=name if len(name) <= LONGEST_ID else uuid4().hex)

    def within(self, seconds: float | None) -> Self:
        """With a deadline so many seconds after its start, if that is earlier."""
        if seconds is None:
            return self
        deadline = self.started + seconds
        return replace(self, deadline=min(deadline, self.deadline or deadline))

    def check(self, stage: str) -> None:
        """Raise ``ServiceProblem`` 504 if the deadline passed during ``stage``."""
        if self.deadline is not None and perf_counter() > self.deadline:
            raise late(stage)

    def left(self, most: float) -> float:
        """Seconds that may still be spent, at most ``most``."""
        if self.deadline is None:
            return most
        return max(0.0, min(most, self.deadline - perf_counter()))


def late(stage: str) -> ServiceProblem:
    """The refusal of a request whose deadline passed."""
    return ServiceProblem(
        504, f"The deadline passed during: {stage}. Allow more time, or ask when less is going on."
    )


def seconds_allowed(header: str | None) -> float | None:
    """From ``X-Request-Timeout``: seconds. Raises ``ServiceProblem`` 400."""
    if header is None:
        return None
    try:
        seconds = float(header) if len(header) <= 32 else math.nan
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_SECONDS:
        raise ServiceProblem(
            400, f"{HEADER} is a number of seconds above 0 and at most {LONGEST_SECONDS:g}."
        )
    return seconds
