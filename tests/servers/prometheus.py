"""A private Prometheus that scrapes what a test names, and a private Alertmanager."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from servers.process import free_port, program, running

CLIENT = httpx.Client(timeout=30)
"""One for all: making one costs more than a query."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running server. Its configuration can be rewritten and read again."""

    url: str
    configuration: Path

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an instant query returns: ``metric`` (labels) and ``value`` (time and text)."""
        found: list[dict[str, Any]] = self._get("query", {"query": expression})["result"]
        return found

    def value(self, expression: str) -> float:
        """The one value of an instant query."""
        (found,) = self.query(expression)
        return float(found["value"][1])

    def wait_for(self, expression: str, seconds: float = 30) -> list[dict[str, Any]]:
        """Ask until the query returns something; fail after ``seconds``."""
        until = time.monotonic() + seconds
        while not (found := self.query(expression)):
            assert time.monotonic() < until, f"Prometheus has nothing for: {expression}"
            time.sleep(0.2)
        return found

    def wait_without(self, expression: str, seconds: float = 30) -> None:
        """Ask until the query returns nothing; fail after ``seconds``."""
        until = time.monotonic() + seconds
        while found := self.query(expression):
            assert time.monotonic() < until, f"Prometheus still has {found} for: {expression}"
            time.sleep(0.2)

    def alerts(self, state: str = "firing") -> set[str]:
        """The names of the alerts in this state."""
        found = self._get("alerts", {})["alerts"]
        return {alert["labels"]["alertname"] for alert in found if alert["state"] == state}

    def exemplars(self, expression: str) -> list[dict[str, Any]]:
        """The exemplars of the last hour: ``labels``, ``value``, ``timestamp``."""
        now = time.time()
        series = self._get(
            "query_exemplars", {"query": expression, "start": now - 3600, "end": now + 60}
        )
        return [exemplar for one in series for exemplar in one["exemplars"]]

    def _get(self, path: str, parameters: dict[str, Any]) -> Any:
        response = CLIENT.get(f"{self.url}/api/v1/{path}", params=parameters)
        answer = response.json()
        assert answer["status"] == "success", answer
        return answer["data"]


@contextmanager
def prometheus(
    folder: Path,
    targets: Mapping[str, str | Sequence[str]],
    *,
    rules: Sequence[Path] = (),
    alertmanager: str | None = None,
    seconds: float = 0.5,
) -> Iterator[Prometheus]:
    """Start Prometheus on a free port.

    Args:
        folder: for its configuration, data and log.
        targets: job to the ``host:port``, or several, whose ``/metrics`` it reads.
        rules: rule files.
        alertmanager: ``host:port`` to send alerts to.
        seconds: between scrapes, and between evaluations of the rules.
    """
    binary = program("prometheus", "prometheus")
    folder.mkdir(parents=True, exist_ok=True)
    interval = f"{round(1000 * seconds)}ms"
    configuration = {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "evaluation_interval": interval,
        },
        "rule_files": [str(path.resolve()) for path in rules],
        "scrape_configs": [
            {
                "job_name": job,
                "static_configs": [{"targets": [found] if isinstance(found, str) else list(found)}],
            }
            for job, found in targets.items()
        ],
    }
    if alertmanager:
        configuration["alerting"] = {
            "alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]
        }
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(configuration))  # JSON is YAML
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        binary, f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage",
        "--web.enable-lifecycle", "--log.level=warn",
    ]  # fmt: skip
    with running(command, folder / "prometheus.log", lambda: _ready(url)):
        yield Prometheus(url, file)


@dataclass(frozen=True, slots=True)
class Alertmanager:
    """A running server."""

    address: str
    """``host:port``, for ``prometheus(alertmanager=...)``."""

    @property
    def url(self) -> str:
        """Where its pages are."""
        return f"http://{self.address}"

    def alerts(self) -> list[dict[str, Any]]:
        """What is active: ``labels``, ``annotations``, ``status``, ``receivers``."""
        found = httpx.get(f"{self.url}/api/v2/alerts", params={"active": "true"}).json()
        assert isinstance(found, list), found
        return found

    def wait_for(self, name: str, seconds: float = 30) -> dict[str, Any]:
        """Ask until an alert of this name is active."""
        until = time.monotonic() + seconds
        while True:
            for alert in self.alerts():
                if alert["labels"]["alertname"] == name:
                    return alert
            if time.monotonic() > until:
                pytest.fail(f"Alertmanager never heard of {name}")
            time.sleep(0.2)


@contextmanager
def alertmanager(folder: Path, configuration: Path | None = None) -> Iterator[Alertmanager]:
    """Start Alertmanager on a free port, by default with a receiver that does nothing."""
    binary = program("prometheus-alertmanager", "prometheus-alertmanager")
    folder.mkdir(parents=True, exist_ok=True)
    if configuration is None:
        configuration = folder / "alertmanager.yml"
        routes = {"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}
        configuration.write_text(json.dumps(routes))
    address = f"127.0.0.1:{free_port()}"
    command = [
        binary, f"--config.file={configuration}", f"--storage.path={folder / 'data'}",
        f"--web.listen-address={address}", "--cluster.listen-address=", "--log.level=warn",
    ]  # fmt: skip
    with running(command, folder / "alertmanager.log", lambda: _ready(f"http://{address}")):
        yield Alertmanager(address)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=1).status_code == 200
    except httpx.HTTPError:
        return False
