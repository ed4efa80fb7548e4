"""Each fault that can be provoked raises the alert that names it, and the alert clears.

The real service, Prometheus, Alertmanager and Redis. The rules and the routing are those shipped,
with windows of minutes to days as seconds (``live.PACE``) and a second of patience. What cannot be
provoked here (a full day of silence, GPUs, certificates, a PACS that refuses) fires in
``deploy/prometheus/tests`` alone.
"""

from __future__ import annotations

import resource
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from live import ORDINARY, SMOOTHED, Service, Traffic, quick_rules, service
from servers.process import free_port
from servers.prometheus import Alertmanager, Prometheus, alertmanager, prometheus
from servers.redis import redis_server
from tiny_bundle import REJECTED, UNJUDGED, flat

from detectors.bundle import GRAPH
from detectors.manifest_file import MANIFEST

ROOT = Path(__file__).parents[2]
ROUTING = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
WATCHDOG = {"LazaretWatchdog"}
DRIFT = {"LazaretCalibrationDrift"}  # stays until another bundle is served
PATIENCE = 120.0


class Pager:
    """What is heard of at the end of the line."""

    def __init__(self, reader: Prometheus, listener: Alertmanager) -> None:
        self._reader = reader
        self._listener = listener
        self.heard: dict[str, str] = {}

    def hears(self, *names: str) -> None:
        """Wait until every one of these has fired and has reached its receiver."""
        fired: set[str] = set()

        def all_heard() -> bool:
            # at some moment each: on a busy machine a lost scrape interrupts an alert
            fired.update(self._reader.alerts())
            for alert in self._listener.alerts():
                (receiver,) = alert["receivers"]
                self.heard[alert["labels"]["alertname"]] = receiver["name"]
                assert receiver["name"] in (alert["labels"]["severity"], "watchdog")
            return set(names) <= fired & set(self.heard)

        for name in names:
            self.heard.pop(name, None)
        self._until(all_heard, f"{names} to fire")

    def is_quiet(self, but: set[str] = WATCHDOG) -> None:
        """Wait until nothing but these is firing, here and there."""
        self._until(lambda: self._reader.alerts() <= but, f"silence but for {but}")
        self._until(lambda: self._active() <= but, f"Alertmanager's silence but for {but}")

    def _active(self) -> set[str]:
        return {alert["labels"]["alertname"] for alert in self._listener.alerts()}

    def _until(self, true: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + PATIENCE
        while not true():
            now = self._reader.alerts()
            assert time.monotonic() < until, f"waited for {what}; firing: {now}"
            time.sleep(0.3)


def largest_file(served: Service, size: int) -> None:
    """Let the service write no file beyond ``size``, as on a full disk, or lift that again."""
    assert served.process is not None
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def held_two_days_ago(served: Service) -> str:
    """Make one of the cases that old; its id."""
    with sqlite3.connect(served.folder / "records.sqlite3") as records:
        (case,) = records.execute("SELECT case_id FROM cases WHERE state = 'open'").fetchone()
        change = "UPDATE cases SET opened_at = datetime('now', '-2 days') WHERE case_id = ?"
        records.execute(change, (case,))
    return str(case)


@pytest.mark.timeout(900)
def test_every_fault_raises_its_alert_and_the_alert_clears(tmp_path: Path) -> None:
    secret = tmp_path / "query_secret"
    port = free_port()
    with ExitStack() as running:
        store = running.enter_context(ExitStack())
        store.enter_context(redis_server(tmp_path, port))
        served = running.enter_context(
            service(
                tmp_path,
                redis=f"redis://127.0.0.1:{port}/0",
                query_secret_file=str(secret),
                max_in_flight="12",
                policies='{"tiny": {"on_detector_failure": "open"}}',
            )
        )
        listener = running.enter_context(alertmanager(tmp_path / "alertmanager", ROUTING))
        reader = running.enter_context(
            prometheus(
                tmp_path / "prometheus",
                {"lazaret": served.address},
                rules=quick_rules(tmp_path),
                alertmanager=listener.address,
                seconds=1,
            )
        )
        traffic = running.enter_context(Traffic(served.address, clients=8, pause=0.15))
        pager = Pager(reader, listener)

        traffic.send(ORDINARY)
        reader.wait_for("lazaret:errors:ratio_rate5m == 0", PATIENCE)
        pager.is_quiet(WATCHDOG | DRIFT)

        # detectors that fail, a policy that lets by, and an attack or another scanner
        traffic.send([flat(UNJUDGED), flat(REJECTED)])
        pager.hears("LazaretFailOpen", "LazaretFlagRateShift")
        traffic.send(ORDINARY)

        # a guard that sees nothing any more
        served.fault("blind")
        pager.hears("LazaretCanaryMissed")
        served.fault()
        pager.is_quiet(WATCHDOG | DRIFT)

        # a slow model, and a flood that it cannot keep up with
        served.fault("slow 0.8")
        with Traffic(served.address, clients=24, pause=0.4) as flood:
            flood.send(ORDINARY)
            pager.hears("LazaretLatencyFastBurn", "LazaretShedding", "LazaretErrorBudgetFastBurn")
        served.fault()
        pager.is_quiet(WATCHDOG | DRIFT)

        # a broken engine
        served.fault("error")
        pager.hears("LazaretAnswersNothing", "LazaretNotReady")
        served.fault()
        pager.is_quiet(WATCHDOG | DRIFT)

        # bundles that must not be served: one that somebody changed, one of another version
        for file, alert in ((GRAPH, "LazaretBundleTampered"), (MANIFEST, "LazaretBundleRefused")):
            path = served.bundle / file
            sealed = path.read_bytes()
            path.write_bytes(b"{}")
            pager.hears(alert)
            path.write_bytes(sealed)
            pager.is_quiet(WATCHDOG | DRIFT)

        # a held image that nobody looks at for two days, until somebody does
        case = held_two_days_ago(served)
        pager.hears("LazaretReviewBacklog")
        httpx.post(f"http://{served.address}/cases/{case}/release").raise_for_status()
        pager.is_quiet(WATCHDOG | DRIFT)

        # a full disk, and Redis gone
        largest_file(served, 1)
        store.close()
        pager.hears("LazaretRecordsFailing", "LazaretSharedStateDown")
        largest_file(served, resource.RLIM_INFINITY)
        store.enter_context(redis_server(tmp_path, port))
        pager.is_quiet(WATCHDOG | DRIFT)

        # a scanner whose images all look less suspicious than those calibrated on
        traffic.send(SMOOTHED)
        pager.hears("LazaretCalibrationDrift")
        traffic.send(ORDINARY)

        # gone; back, but broken; then on another database, as with another bundle
        served.kill()
        pager.hears("LazaretDown")
        served.fault("error")
        served.start("later")
        pager.hears("LazaretNotReady")
        served.fault()
        traffic.send(())
        pager.is_quiet()
        assert {"page", "ticket"} <= set(pager.heard.values())
