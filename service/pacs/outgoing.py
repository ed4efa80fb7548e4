"""The judging and sending half of one process, from the settings: spool -> screening -> outbox ->
delivery."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec

from service.gateway import Gateway
from service.metrics import Metrics
from service.metrics.catalogue import OBJECT_FAILURES
from service.metrics.labels import SOURCE
from service.monitor import Job, Monitor
from service.pacs.audiences import Audiences
from service.pacs.delivery import Delivery
from service.pacs.outbox import MOST_PURGED, Outbox
from service.pacs.peers import Peer
from service.pacs.route_file import load
from service.pacs.routes import RouteTable
from service.pacs.screening import UNNAMED, Screening
from service.pacs.spool import Spool
from service.settings import Settings, SettingsProblem

PURGE_SECONDS = 3600.0
"""How often what was delivered long ago is removed."""


class Outgoing:
    """Screening and delivery. ``start`` on the event loop, once records and engines are started;
    ``close`` before they end.

    Raises:
        SettingsProblem: the route table, or something that it needs, is not usable.
    """

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        gateway: Gateway,
        metrics: Metrics,
    ) -> None:
        callers = frozenset(settings.dicom_callers)
        metrics.allow(SOURCE, [*callers, UNNAMED])
        table = RouteTable() if settings.pacs_routes is None else load(settings.pacs_routes)
        _see_that_it_can_be_sent(table)
        outbox = Outbox(gateway.records.engine)
        self._outbox = outbox
        self._audiences = Audiences(table, settings.dicom_ae_title)
        self._delivery = Delivery(
            outbox, table.peers, table.delivery, metrics, tell=self._audiences.of_delivered
        )
        self._screening = Screening(
            spool,
            gateway,
            table,
            callers=callers,
            tell=self._audiences.of,
            failed=lambda kind: metrics.count(OBJECT_FAILURES, kind),
            wake=self._delivery.wake,
        )
        self._kept = timedelta(days=settings.delivered_days)
        self._spool = spool
        self._monitor = Monitor([Job("outbox", PURGE_SECONDS, self._purge)], metrics)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Judge and send, also what an earlier run left."""
        await asyncio.to_thread(self._outbox.add, self._audiences.started(_now()), _now())
        self._delivery.start()
        self._monitor.start()
        self._task = asyncio.create_task(self._screening.run())

    async def close(self) -> None:
        """End what is in work; the rest waits for the next start."""
        self._screening.close()
        if self._task is not None:
            await self._task
        await asyncio.to_thread(self._outbox.add, self._audiences.stopped(_now()), _now())
        await asyncio.to_thread(self._delivery.close)
        await asyncio.to_thread(self._monitor.close)

    def _purge(self) -> None:
        while self._outbox.purge(_now() - self._kept, self._spool.holds) >= MOST_PURGED:
            pass


def _now() -> datetime:
    return datetime.now(UTC)


def _see_that_it_can_be_sent(table: RouteTable) -> None:
    images: list[Peer] = [
        table.peers[name] for _, handling in table.handlings() for name in handling.destinations
    ]
    if images and (find_spec("highdicom") is None or find_spec("pynetdicom") is None):
        raise SettingsProblem(
            "setting pacs_routes: objects for the PACS need `pip install 'lazaret[pacs]'`"
        )
