"""The life of a case. The table is the code: no other change of state is possible, and each entry
of it is a test."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a case is."""

    OPEN = "open"
    CLAIMED = "claimed"
    """Somebody looks at it."""
    RELEASED = "released"
    """Decided: the image was benign. Calibration may learn from it."""
    CONFIRMED = "confirmed"
    """Decided: holding it was right. Calibration never learns from it."""
    EXPIRED = "expired"
    """Nobody decided in time; its file is gone."""


class Event(StrEnum):
    """What can happen to it."""

    CLAIM = "claim"
    LAPSE = "lapse"
    """Whoever claimed it has not decided in time."""
    RELEASE = "release"
    CONFIRM = "confirm"
    EXPIRE = "expire"


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.OPEN, Event.CLAIM): State.CLAIMED,
    (State.OPEN, Event.RELEASE): State.RELEASED,
    (State.OPEN, Event.CONFIRM): State.CONFIRMED,
    (State.OPEN, Event.EXPIRE): State.EXPIRED,
    (State.CLAIMED, Event.CLAIM): State.CLAIMED,
    (State.CLAIMED, Event.LAPSE): State.OPEN,
    (State.CLAIMED, Event.RELEASE): State.RELEASED,
    (State.CLAIMED, Event.CONFIRM): State.CONFIRMED,
    (State.CLAIMED, Event.EXPIRE): State.EXPIRED,
    # a second look may correct the first; both stay on record
    (State.RELEASED, Event.CONFIRM): State.CONFIRMED,
    (State.CONFIRMED, Event.RELEASE): State.RELEASED,
}
UNDECIDED: Final = (State.OPEN, State.CLAIMED)
DECIDED: Final = (State.RELEASED, State.CONFIRMED)


def before(event: Event) -> tuple[State, ...]:
    """The states in which it can happen."""
    return tuple(state for state, happening in TRANSITIONS if happening is event)
