"""Recording and alerting rules: valid, unit-tested both ways, each with its runbook."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers.process import program

from deploy.prometheus_rule import manifest
from service.metrics import catalogue

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
UNIT_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
RUNBOOKS = ROOT / "docs" / "runbooks"
SEVERITIES = {"page", "ticket", "none"}
OTHERS = {"up", "ALERTS"}
"""Series that Prometheus makes itself."""
EXPORTERS = ("node_", "DCGM_", "process_")
SERIES = r"\b(?:lazaret[:\w]+|up|node_\w+|DCGM_\w+)(?=[{\[ )])"


def rules() -> list[dict[str, Any]]:
    """Every rule of every file."""
    files = [yaml.safe_load(path.read_text()) for path in RULES]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool(*arguments: str | Path) -> str:
    """What promtool says; it must be content."""
    command = [program("promtool", "prometheus"), *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_promtool_accepts_rules_and_configuration() -> None:
    assert "SUCCESS" in promtool("check", "rules", *RULES)
    assert "SUCCESS" in promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_amtool_accepts_the_configuration() -> None:
    file = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
    command = [program("amtool", "prometheus-alertmanager"), "check-config", str(file)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_what_fires_when(path: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", path)


def test_every_alert_is_shown_to_fire_and_to_stay_silent() -> None:
    fires: set[str] = set()
    silent: set[str] = set()
    for path in UNIT_TESTS:
        for case in yaml.safe_load(path.read_text())["tests"]:
            seen = {
                re.search(r'alertname="(\w+)"', sample["labels"])[1]
                for check in case["promql_expr_test"]
                for sample in check["exp_samples"]
            }
            for claim in case["name"].split("; "):
                for alert in re.findall(r"(Lazaret\w+): fires", claim):
                    assert alert in seen, case["name"]
                    fires.add(alert)
                for alert in re.findall(r"(Lazaret\w+): silent", claim):
                    # an alert that fired before may be shown to have gone silent
                    assert alert not in last(case), case["name"]
                    silent.add(alert)
    always = {"LazaretWatchdog"}
    assert set(ALERTS) - always == fires
    assert set(ALERTS) - always == silent


def last(case: dict[str, Any]) -> set[str]:
    """What fires at a case's last moment."""
    samples = case["promql_expr_test"][-1]["exp_samples"]
    return {re.search(r'alertname="(\w+)"', sample["labels"])[1] for sample in samples}


def test_every_alert_has_its_runbook_and_no_runbook_is_left_over() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == set(ALERTS)
    for name, alert in ALERTS.items():
        page = (RUNBOOKS / f"{name}.md").read_text()
        assert page.startswith(f"# {name}\n")
        assert "## Look at" in page
        assert "## Do" in page
        assert "It clears when" in page
        assert alert["annotations"]["runbook"] == f"docs/runbooks/{name}.md"
        for other in re.findall(r"\]\((\w+)\.md\)", page):
            assert other in ALERTS, f"{name} points to {other}"


def test_every_alert_says_how_urgent_it_is_and_what_happened() -> None:
    for name, alert in ALERTS.items():
        assert alert["labels"]["severity"] in SEVERITIES, name
        assert alert["annotations"]["summary"], name
        assert alert["annotations"]["description"], name
        assert alert["annotations"]["dashboard"].startswith("/d/lazaret-"), name


def test_rules_read_only_what_exists() -> None:
    known = {rule["record"] for rule in rules() if "record" in rule} | OTHERS
    for metric in catalogue.ALL:
        ends = {
            catalogue.Counter: ("_total",),
            catalogue.Histogram: ("_bucket", "_sum", "_count"),
        }.get(type(metric), ("",))
        known |= {metric.name + end for end in ends}
    for rule in rules():
        for name in re.findall(
            r"\b(?:lazaret[:\w]+|up|node_\w+|DCGM_\w+)(?=[{\[ )])", rule["expr"]
        ):
            assert name in known or name.startswith(EXPORTERS), f"{name} in {rule}"


def test_labels_in_rules_say_what_the_service_says() -> None:
    labels = {
        metric.name: {label.name: label for label in metric.labels} for metric in catalogue.ALL
    }
    for rule in rules():
        for name, selector in re.findall(r"(lazaret_\w+)\{([^}]*)\}", rule["expr"]):
            base = re.sub("_(total|bucket|sum|count)$", "", name)
            for label, operator, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', selector):
                if label in ("job", "le"):
                    continue
                values = labels[base][label].values
                for word in value.split("|") if operator.endswith("~") else [value]:
                    assert not values or word in values, f"{name}: {label} never says {word}"


def test_the_operator_gets_the_same_rules() -> None:
    file = ROOT / "deploy" / "kubernetes" / "components" / "monitoring" / "prometheusrule.yaml"
    assert yaml.safe_load(file.read_text()) == manifest(), "run: make docs"
