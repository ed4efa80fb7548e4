"""How much is taken in at once. What does not fit is shed at the door, not queued."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from service.problems import ServiceProblem


class Admission:
    """Counts requests and the bytes they hold. Requests come and go on the event loop; their bytes
    are counted on decoding threads as well, under a lock.

    Args:
        requests: most requests at once.
        held_bytes: largest sum of their bodies and decoded pixels.
    """

    def __init__(self, requests: int, held_bytes: int) -> None:
        self._requests = requests
        self._held_bytes = held_bytes
        self._lock = threading.Lock()
        self.requests = 0
        self.held_bytes = 0

    def enter(self) -> Ticket:
        """A place, to be used as a context. Raises ``ServiceProblem`` 503 when all are taken."""
        if self.requests >= self._requests:
            raise ServiceProblem(
                503, "Too many requests are being answered; try again.", shed="requests"
            )
        return Ticket(self)

    def _take(self, places: int) -> int:
        granted = max(0, min(places, self._requests - self.requests))
        self.requests += granted
        return granted

    def _hold(self, ticket: Ticket, count: int) -> None:
        with self._lock:
            if ticket.left:  # nobody would free them
                return
            if self.held_bytes + count > self._held_bytes:
                raise ServiceProblem(
                    503, "The images being answered fill the memory; try again.", shed="memory"
                )
            self.held_bytes += count
            ticket.bytes += count

    def _free(self, ticket: Ticket) -> None:
        with self._lock:
            self.held_bytes -= ticket.bytes
            ticket.left = True


class Ticket:
    """One request's place and the bytes it holds; leaving the context frees both."""

    def __init__(self, admission: Admission, places: int = 1) -> None:
        self._admission = admission
        self._places = places
        self.bytes = 0
        """That it holds."""
        self.left = False
        """Whether its context is."""

    def hold(self, count: int) -> None:
        """Account for ``count`` more bytes, from any thread. Raises ``ServiceProblem`` 503 when
        they do not fit."""
        self._admission._hold(self, count)

    def widen(self, places: int) -> int:
        """Take up to ``places`` in all, for so many images at once; how many there are. A full
        service makes a request of many images slower instead of refusing it."""
        self._places += self._admission._take(places - self._places)
        return self._places

    def inner(self) -> Ticket:
        """Bytes of one of the request's images, freed when its own context is left."""
        return Ticket(self._admission, places=0)

    def __enter__(self) -> Self:
        self._admission.requests += self._places
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._admission.requests -= self._places
        self._admission._free(self)
