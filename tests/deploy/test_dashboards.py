"""Dashboards: what the code says, valid for Grafana, and full of data from the real service."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from live import MIXED, Traffic, quick_rules, service
from servers.prometheus import Prometheus, prometheus

from deploy.grafana import reasons
from deploy.grafana.__main__ import BOARDS, FOLDER, files
from deploy.grafana.board import Panel
from service.metrics import catalogue

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules"
REASONS = {value for name, value in vars(reasons).items() if name.isupper()}
NEEDS_A_FAULT = {
    "lazaret_drift": "a source drifts, or enough images were accepted",
    "lazaret_spool_items": reasons.DICOM,
    "lazaret_outbox_oldest_seconds": reasons.OUTBOX,
    "lazaret_outbox_deliveries_total": reasons.OUTBOX,
    "lazaret_shared_state_up": reasons.REDIS,
    "lazaret_certificate_expiry_timestamp_seconds": reasons.CERTIFICATES,
    "lazaret_worker_restarts_total": reasons.WORKERS,
    "DCGM_FI_DEV_FB_USED": reasons.GPU,
    "DCGM_FI_DEV_FB_FREE": reasons.GPU,
    "node_filesystem_avail_bytes": reasons.NODE,
    "node_filesystem_size_bytes": reasons.NODE,
}
"""Series of alerts that ordinary traffic over HTTP does not make, and what makes them."""


def asked(expression: str) -> str:
    """As Grafana would ask it for every model, over a few scrapes."""
    return expression.replace("$model", ".*").replace("$__rate_interval", "5s")


@pytest.mark.parametrize("name", files())
def test_the_files_are_what_the_code_says(name: str) -> None:
    assert (FOLDER / name).read_text() == files()[name], "run: make docs"
    assert {path.name for path in FOLDER.glob("*.json")} == set(files())


@pytest.mark.parametrize("name", files())
def test_grafana_knows_every_field(name: str) -> None:
    made = json.loads((FOLDER / name).read_text())
    for annotation in made["annotations"]["list"]:  # of the data source, not of Grafana
        for field in ("useValueForTime", "titleFormat", "textFormat", "step"):
            annotation.pop(field)
    read = Dashboard.from_json(made)
    again = json.loads(json.dumps(read, cls=JSONEncoder))
    assert again == made


def test_a_panel_says_what_it_is_and_stands_where_nothing_else_does() -> None:
    for name in files():
        taken: set[tuple[int, int]] = set()
        for panel in json.loads((FOLDER / name).read_text())["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert place["x"] + place["w"] <= 24
            assert not cells & taken, f"{name}: {panel['title']}"
            taken |= cells
            if panel["type"] != "row":
                assert panel["description"]
                assert panel["datasource"]["uid"] == "prometheus"
    for board in BOARDS:
        assert {panel.needs for panel in board.panels} <= REASONS | {""}


def test_alerts_lead_to_dashboards_that_are_there() -> None:
    uids = {board.uid for board in BOARDS}
    for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["dashboard"].removeprefix("/d/") in uids, rule["alert"]


def test_every_metric_is_on_a_dashboard() -> None:
    shown = " ".join(query.expr for board in BOARDS for p in board.panels for query in p.queries)
    rules = (RULES / "recording.yml").read_text()
    unseen = {"lazaret_build_info", "lazaret_drift", "lazaret_incidents_open", "lazaret_ready"}
    for metric in catalogue.ALL:
        if metric.name not in unseen:
            assert metric.name in shown + rules, metric.name


def expressions(panel: Panel) -> list[str]:
    """Of one panel, as asked."""
    return [asked(query.expr) for query in panel.queries]


def without_data(reader: Prometheus, rules: Path) -> list[str]:
    """The panels, records and alerts' series that have none, and need no fault to have some."""
    empty: list[str] = []
    for board in BOARDS:
        for panel in board.panels:
            for expression in expressions(panel):
                found = reader.query(expression)  # fails where it does not parse
                if not found and not panel.needs:
                    empty.append(f"{board.title}: {panel.title}: {expression}")
    for path in sorted(rules.glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                found = reader.query(rule["expr"])
                if "record" in rule:
                    if not found or not reader.query(rule["record"]):
                        empty.append(rule["record"])
                else:
                    empty += [
                        f"{rule['alert']}: {series}"
                        for series in selectors(rule["expr"])
                        if not reader.query(series)
                        and re.split(r"[{\s]", series)[0] not in NEEDS_A_FAULT
                    ]
    return empty


def test_every_panel_and_rule_has_data_from_the_real_service(tmp_path: Path) -> None:
    with (
        service(tmp_path) as served,
        prometheus(
            tmp_path / "prometheus",
            {"lazaret": served.address},
            rules=quick_rules(tmp_path),
            seconds=1,
        ) as reader,
        Traffic(served.address, clients=2, pause=0.1) as traffic,
    ):
        traffic.send(MIXED)
        reader.wait_for("lazaret:held:ratio_rate1h > 0", 60)
        reader.wait_for('max(lazaret_cases{state="open"})', 60)
        reader.wait_for("sum(increase(lazaret_canaries_total[1h])) > 0", 60)
        # Each group of rules has its own moment in Prometheus's interval: they fill one by one.
        until = time.monotonic() + 60
        while (empty := without_data(reader, tmp_path)) and time.monotonic() < until:
            time.sleep(0.5)
        assert not empty, "\n".join(empty)
        assert not reader.query("lazaret_ready != 1")


def selectors(expression: str) -> list[str]:
    """The series that an alert's expression reads."""
    found: list[Any] = re.findall(
        r"((?:lazaret[:\w]+|up|node_\w+|DCGM_\w+)(?:\{[^}]*\})?)(?=[\[\s)>/]|$)", expression
    )
    return [series for series in found if series != "up"]
