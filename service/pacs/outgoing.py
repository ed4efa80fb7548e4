"""The judging and sending half of one process, from the settings: spool -> screening -> outbox ->
delivery."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from importlib.util import find_spec

from service.gateway import Gateway
from service.metrics import Metrics
from service.metrics.labels import SOURCE
from service.pacs.audiences import Audiences
from service.pacs.delivery import Delivery
from service.pacs.outbox import Outbox
from service.pacs.peers import Peer
from service.pacs.route_file import load
from service.pacs.routes import RouteTable
from service.pacs.screening import UNNAMED, Screening
from service.pacs.spool import Spool
from service.settings import Settings, SettingsProblem


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
            wake=self._delivery.wake,
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Judge and send, also what an earlier run left."""
        await asyncio.to_thread(self._outbox.add, self._audiences.started(_now()), _now())
        self._delivery.start()
        self._task = asyncio.create_task(self._screening.run())

    async def close(self) -> None:
        """End what is in work; the rest waits for the next start."""
        self._screening.close()
        if self._task is not None:
            await self._task
        await asyncio.to_thread(self._outbox.add, self._audiences.stopped(_now()), _now())
        await asyncio.to_thread(self._delivery.close)


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
