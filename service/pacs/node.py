"""The receiving half of one process: its spool and what fills it, from the settings."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from service.auth import is_loopback
from service.metrics import Metrics
from service.monitor import Job, Monitor
from service.pacs.callers import Callers
from service.pacs.spool import Spool
from service.pacs.spool_entry import SpoolProblem
from service.pacs.tally import Tally
from service.settings import Settings, SettingsProblem

if TYPE_CHECKING:
    from service.pacs.receiver import Receiver

LOOK_SECONDS = 10.0
"""How often the spool is measured."""
FORGET_SECONDS = 86_400.0
REMEMBER_DAYS = 400.0
"""How long a UID is remembered after its verdict: a little over a year of re-sent studies."""


class Node:
    """A spool and, when a DICOM port is set, a Storage SCP.

    Raises:
        SettingsProblem: it must not start; a sentence.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        if find_spec("pynetdicom") is None:
            raise SettingsProblem(
                "settings dicom_port and dicomweb: DICOM needs `pip install 'lazaret[pacs]'`"
            )
        callers = _callers(settings)
        self.tally = Tally(metrics, [*callers.titles, *settings.keys()])
        try:
            self.spool = Spool(
                settings.spool,
                reserve_bytes=settings.spool_reserve_bytes,
                alarm=self.tally.reused,
            )
        except SpoolProblem as problem:
            raise SettingsProblem(f"setting spool: {problem}") from None
        self._monitor = Monitor(
            [
                Job("spool", LOOK_SECONDS, lambda: self.tally.look(self.spool)),
                Job("spool", FORGET_SECONDS, self._forget),
            ],
            metrics,
        )
        self._drain_seconds = settings.drain_seconds
        self._receiver = _receiver(settings, callers, self.spool, self.tally)

    def start(self) -> None:
        """Listen. Raises ``SettingsProblem`` where the port cannot be bound."""
        self._monitor.start()
        if self._receiver is not None:
            self._receiver.start()

    def stop_receiving(self) -> None:
        """Take nothing more in; what has begun to arrive may end."""
        if self._receiver is not None:
            self._receiver.stop(self._drain_seconds)

    def close(self) -> None:
        """Close the spool, once nothing reads it any more."""
        self._monitor.close()
        self.spool.close()

    def _forget(self) -> None:
        self.spool.forget(REMEMBER_DAYS)


def _callers(settings: Settings) -> Callers:
    if settings.dicom_port is None or settings.dicom_callers:
        return Callers(settings.dicom_callers)
    if not is_loopback(settings.dicom_host) or settings.anonymous == "never":
        raise SettingsProblem(
            f"setting dicom_callers: nobody may send, and without it {settings.dicom_host} would "
            "take images from anyone; name the AE titles that may, or bind dicom_host to 127.0.0.1"
        )
    return Callers({}, open_=True)


def _receiver(settings: Settings, callers: Callers, spool: Spool, tally: Tally) -> Receiver | None:
    if settings.dicom_port is None:
        return None
    from service.pacs.link_limits import LinkLimits
    from service.pacs.receiver import Receiver, ReceiverConfig
    from service.pacs.tls import expiry, server_context

    tls = None
    if settings.dicom_tls_certificate is not None:
        tls = server_context(
            settings.dicom_tls_certificate, settings.dicom_tls_key, settings.dicom_tls_clients
        )
        tally.certificate(expiry(settings.dicom_tls_certificate))
    elif settings.dicom_tls_clients is not None:
        raise SettingsProblem("setting dicom_tls_clients: it needs dicom_tls_certificate")
    elif any(proof != "any" for proof in settings.dicom_callers.values()):
        raise SettingsProblem(
            "setting dicom_callers: a certificate is asked for, but without dicom_tls_certificate "
            "and dicom_tls_clients nobody can show one"
        )
    config = ReceiverConfig(
        host=settings.dicom_host,
        port=settings.dicom_port,
        ae_title=settings.dicom_ae_title,
        callers=callers,
        tls=tls,
        limits=LinkLimits(
            instance_bytes=settings.dicom_instance_bytes,
            held_bytes=settings.dicom_held_bytes,
            associations=settings.dicom_associations,
            idle_seconds=settings.dicom_idle_seconds,
        ),
        flush_each=settings.dicom_flush == "instance",
    )
    return Receiver(config, spool, tally)
