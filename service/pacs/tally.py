"""What receiving tells the metrics and the log. No title from the wire, UID or name leaves here."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import structlog

from service.metrics import Metrics
from service.metrics import catalogue as c
from service.metrics import labels as by
from service.pacs.received import Received
from service.pacs.spool import Spool
from service.pacs.spool_entry import Entry


class Tally:
    """Counts into ``metrics``; peers are named by the titles in ``configured``, others not."""

    def __init__(self, metrics: Metrics, configured: Iterable[str] = ()) -> None:
        self._metrics = metrics
        metrics.allow(by.PEER, configured)

    def look(self, spool: Spool) -> None:
        """Set what the spool holds. Asks the disk."""
        held = spool.held()
        self._metrics.set(c.SPOOL_ITEMS, held.waiting, "received")
        self._metrics.set(c.SPOOL_ITEMS, held.aside, "held")
        self._metrics.set(c.SPOOL_BYTES, held.bytes)
        self._metrics.set(c.SPOOL_FREE_BYTES, max(0, held.free_bytes))
        self._metrics.set(c.SPOOL_OLDEST, spool.oldest_seconds())

    def certificate(self, expires: datetime) -> None:
        """The receiver's certificate, and until when it is valid."""
        self._metrics.set(c.CERTIFICATE_EXPIRY, expires.timestamp(), "dicom_in")

    def association(self, calling: str, outcome: str) -> None:
        """One association ``accepted``, ``rejected`` or ``aborted``."""
        self._metrics.count(c.DICOM_ASSOCIATIONS, calling, outcome)

    def rejected(self, reason: str) -> None:
        """One association or connection turned away."""
        self._metrics.count(c.DICOM_REJECTIONS, reason)
        structlog.get_logger().warning("dicom refused", reason=reason)

    def instance(self, received: Received, status: str, size: int, detail: str = "") -> None:
        """One instance and what became of it. ``detail`` is a fixed word."""
        self._metrics.count(c.DICOM_INSTANCES, received.calling, status)
        self._metrics.observe(c.DICOM_BYTES, size, received.calling)
        if status not in ("stored", "not_image", "duplicate"):
            structlog.get_logger().warning(
                "dicom instance not taken",
                status=status,
                reason=detail,
                protocol=received.protocol,
                association=received.association,
            )

    def reused(self, entry: Entry) -> None:
        """An alarm: a UID has returned with other pixels."""
        self._metrics.count(c.INCIDENTS, "uid_reuse")
        structlog.get_logger().error(
            "a SOP instance UID returned with other pixels",
            kind=entry.reuse,
            entry=entry.sequence,
            protocol=entry.received.protocol,
            association=entry.received.association,
        )
