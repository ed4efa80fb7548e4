"""The life of an object that is to be sent. The table is the code: no other change of state is
possible, and each entry of it is a test."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where an object is."""

    WAITING = "waiting"
    SENDING = "sending"
    DELIVERED = "delivered"
    DEAD = "dead"
    """Given up; ``lazaret pacs redrive`` lets it wait again."""


class Event(StrEnum):
    """What can happen to it."""

    CLAIM = "claim"
    """A process begins to send it."""
    TAKE_OVER = "take over"
    """The process that had begun has not come back within its lease."""
    DELIVER = "deliver"
    """The destination has it."""
    FAIL = "fail"
    """It may work later."""
    GIVE_UP = "give up"
    """The destination will never take it, or it has been tried for long enough."""
    REDRIVE = "redrive"
    """A person wants it tried again."""


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.WAITING, Event.CLAIM): State.SENDING,
    (State.SENDING, Event.TAKE_OVER): State.SENDING,
    (State.SENDING, Event.DELIVER): State.DELIVERED,
    (State.SENDING, Event.FAIL): State.WAITING,
    (State.SENDING, Event.GIVE_UP): State.DEAD,
    (State.DEAD, Event.REDRIVE): State.WAITING,
}


def after(event: Event) -> tuple[State, State]:
    """The state that an event needs and the one that it leads to; every event has one."""
    for (before, happening), then in TRANSITIONS.items():
        if happening is event:
            return before, then
    raise AssertionError(event)
