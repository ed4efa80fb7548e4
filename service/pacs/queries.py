"""An instance before the query history: linked by the same detector as every other door's images.

Who asked is the peer: the calling AE title, the API client (STOW-RS) or the archive (pull). What
hospitals send as a matter of course must raise no alarm, so an instance counts as one question,
whatever its frames, and a series as no more than ``SERIES_LINKS`` of them; links within one study
weigh a 32nd as everywhere.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from detectors.query_sequence import Sight
from service.body import Upload
from service.decide import with_history
from service.diagnose import Diagnosed
from service.gateway import Gateway
from service.guard import Guard
from service.pacs.frames import Judged
from service.pacs.received import Received
from service.query_history import QueryHistory

SERIES_LINKS: Final = 16
"""Most instances of a series that are linked: neighbouring slices of a CT are alike, and there are
hundreds. At a 32nd of a point each, sixteen series of one anatomy are no attack."""
SERIES_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class Linked:
    """A judged instance, given the questions before it."""

    found: Diagnosed
    """Of the gravest frame: what goes on record."""
    told: Judged
    """What the archive is told: under ``silent`` what it would have been told without a history."""
    opens: bool
    """Whether what is held gets a case of its own; else it belongs to its incident's."""


class InstanceQueries:
    """The history as one process's screening uses it. Called on the event loop."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._series: OrderedDict[tuple[str, str, str], int] = OrderedDict()
        self._raised: set[str] = set()

    async def link(self, file: bytes, received: Received, guard: Guard, judged: Judged) -> Linked:
        """Link one instance and keep it."""
        history, response = self._gateway.history, self._gateway.response
        before = judged.gravest
        if history is None or not self._counts(received):
            return Linked(before, judged, before.decision.held)
        sight = await self._sight(history, file, received, guard, before)
        if not sight.attack:
            return Linked(replace(before, sight=sight), judged, before.decision.held)
        silent = response == "silent"
        found = replace(
            before, sight=sight, decision=with_history(before.decision, sight, response)
        )
        told = judged if silent else _with(judged, found)
        return Linked(found, told, sight.first or (silent and before.decision.held))

    async def withdraw(self, linked: Linked) -> None:
        """It could not be recorded: let the next question raise its alarm."""
        if linked.found.sight.first and self._gateway.history is not None:
            await self._gateway.history.withdraw(linked.found.sight)

    def _counts(self, received: Received) -> bool:
        """Whether the instance is among the first of its series."""
        if not received.series:
            return True
        series = (received.calling, received.study, received.series)
        so_far = self._series.pop(series, 0)
        self._series[series] = so_far + 1
        if len(self._series) > SERIES_REMEMBERED:
            self._series.popitem(last=False)
        return so_far < SERIES_LINKS

    async def _sight(
        self,
        history: QueryHistory,
        file: bytes,
        received: Received,
        guard: Guard,
        before: Diagnosed,
    ) -> Sight:
        loop = asyncio.get_running_loop()
        mark = await loop.run_in_executor(
            self._gateway.decoders, history.mark, before.image, Upload(file, None), guard.model
        )
        if mark is None:  # it shows nothing
            return before.sight
        sight = await history.link(mark, before.p.predicted, received.calling)
        if sight.attack and not sight.first and sight.incident not in self._raised:
            # Whoever raised it may have been killed before its case was on record.
            incident = sight.incident
            assert incident is not None
            if await asyncio.to_thread(self._gateway.records.case, incident) is None:
                sight = replace(sight, first=True)
        if sight.first:
            assert sight.incident is not None
            self._raised.add(sight.incident)
            self._gateway.metrics.incident("query_attack")
        return sight


def _with(judged: Judged, found: Diagnosed) -> Judged:
    """The same frames, the gravest with the graver verdict."""
    gravest = min(judged.frames, key=lambda frame: frame.rank)
    frames = tuple(
        replace(frame, verdict=found.decision.verdict, route=found.decision.route)
        if frame is gravest
        else frame
        for frame in judged.frames
    )
    return Judged(found, frames)
