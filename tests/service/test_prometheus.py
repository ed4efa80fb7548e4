"""A real Prometheus reads the real service; a real Alertmanager hears of it."""

from pathlib import Path

import httpx
from conftest import server_process
from servers.prometheus import alertmanager, prometheus
from tiny_bundle import ACCEPTED, REJECTED, flat

from service.metrics import catalogue as c

PNG = {"Content-Type": "image/png"}
RULES = """
groups:
  - name: test
    rules:
      - alert: SomethingHeld
        expr: sum(lazaret_verdicts_total{verdict="reject"}) > 0
"""


def test_prometheus_reads_every_metric_that_traffic_makes(bundle: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text(RULES)
    command = ["-m", "service", "serve", "--bundle", str(bundle)]
    with (
        server_process(command, tmp_path) as server,
        alertmanager(tmp_path / "alertmanager") as listener,
        prometheus(
            tmp_path / "prometheus",
            {"lazaret": server.url.removeprefix("http://")},
            rules=[rules],
            alertmanager=listener.address,
        ) as reader,
    ):
        for gray in (ACCEPTED, ACCEPTED, REJECTED):
            httpx.post(f"{server.url}/diagnose", content=flat(gray), headers=PNG)
        reader.wait_for("sum(lazaret_verdicts_total) == 3")
        assert reader.value("up") == 1
        assert reader.value('sum(lazaret_verdicts_total{verdict="reject"})') == 1
        slow = f'lazaret_request_seconds_bucket{{le="{c.LATENCY_SLO_SECONDS:g}"}}'
        assert reader.value(slow) == 3
        assert reader.query("process_resident_memory_bytes")
        held = listener.wait_for("SomethingHeld")
        assert held["labels"].get("verdict") is None
        assert "SomethingHeld" in reader.alerts()
