"""What every way of sending has in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from service.pacs.outbox import Item


class Outcome(StrEnum):
    """What the peer made of one object."""

    DELIVERED = "delivered"
    LATER = "later"
    NEVER = "never"
    """It refuses this object, today and tomorrow."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One object's outcome."""

    item: Item
    outcome: Outcome
    problem: str | None = None
    """A short fixed word or a status in digits, never the peer's own text."""
    peer_down: bool = False
    """It was not the object's turn: nothing could be sent."""


class Unreachable(Exception):
    """The peer takes nothing now. The message is a short fixed word."""


class Sender(Protocol):
    """Sends objects to one peer, from one thread."""

    def send(self, items: Sequence[Item]) -> Iterator[Sent]:
        """Send in order, telling of each as soon as it is known.

        Raises:
            Unreachable: nothing more can be sent now; what was not told of was not taken.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
