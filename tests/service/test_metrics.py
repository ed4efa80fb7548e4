"""Operators read what happened, and nobody reads to whom."""

from pathlib import Path

import pytest
from conftest import serving
from fastapi.testclient import TestClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from tiny_bundle import ACCEPTED, FLAGGED, UNJUDGED, degraded, flat

from service.metrics import Metrics
from service.metrics import catalogue as c
from service.metrics import labels as by
from service.metrics.__main__ import as_markdown
from service.metrics.exposition import page
from service.metrics.labels import OTHER
from service.settings import PolicyOverrides, Settings

PNG = {"Content-Type": "image/png"}
UID = "1.2.840.113619.2.55.3.604688119.868.1117458911.467"
HOSTILE = (UID, "/data/Doe^Jane.dcm", "ValueError: Doe^Jane", 'x"} 1\nfake 2', "", "é" * 9999)


def samples(text: str) -> dict[str, float]:
    """By ``name{labels}``, labels in order of their names."""
    found = {}
    for family in plain(text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_the_page_is_current() -> None:
    written = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert written.read_text() == as_markdown(), "run: python -m service.metrics > docs/metrics.md"


def test_the_catalogue_and_its_page_hold_every_metric() -> None:
    declared = [value for value in vars(c).values() if isinstance(value, c.Metric)]
    assert len(declared) == len(c.ALL) == len({metric.name for metric in declared})
    assert c.LATENCY_SLO_SECONDS in c.REQUEST_SECONDS.buckets
    for label in {label for metric in declared for label in metric.labels}:
        assert bool(label.values) != bool(label.configured), label.name


@pytest.mark.parametrize("metric", c.ALL, ids=lambda metric: metric.name)
def test_no_label_says_what_was_not_declared(metric: c.Metric) -> None:
    metrics = Metrics()
    metrics.allow(by.MODEL, ["tiny"])
    for text in HOSTILE:
        labels = len(metric.labels) * (text,)
        if isinstance(metric, c.Counter):
            metrics.count(metric, *labels)
        elif isinstance(metric, c.Gauge):
            metrics.set(metric, 1, *labels)
        elif isinstance(metric, c.Histogram):
            metrics.observe(metric, 1, *labels)
    for family in metrics.registry.collect():
        for sample in family.samples:
            if sample.name.startswith(metric.name):
                said = {v for k, v in sample.labels.items() if k != "le"}
                assert not said & set(HOSTILE)
                before_any_event = sample.value == 0 or sample.name.endswith("_created")
                assert said <= {OTHER} or before_any_event


def test_configured_labels_are_bounded_too() -> None:
    metrics = Metrics()
    names = [f"peer-{i}" for i in range(2 * by.MOST_CONFIGURED)]
    metrics.allow(by.PEER, names)
    for name in names:
        metrics.count(c.DICOM_INSTANCES, name, "stored")
    (family,) = [f for f in metrics.registry.collect() if f.name == c.DICOM_INSTANCES.name]
    peers = {s.labels["peer"]: s.value for s in family.samples if s.name.endswith("_total")}
    assert len(peers) == by.MOST_CONFIGURED + 1
    assert peers[OTHER] == by.MOST_CONFIGURED


def test_what_a_request_leaves(settings: Settings) -> None:
    chosen = {"tiny": PolicyOverrides(on_detector_failure="open")}
    with serving(settings.model_copy(update={"policies": chosen})) as client:
        for data in (flat(ACCEPTED), flat(FLAGGED), degraded(), flat(UNJUDGED), b"rubbish"):
            client.post("/diagnose", content=data, headers=PNG)
        found = samples(client.get("/metrics").text)
    assert found["lazaret_requests_total{interface=diagnose,outcome=answered}"] == 4
    assert found["lazaret_requests_total{interface=diagnose,outcome=refused}"] == 1
    assert found["lazaret_verdicts_total{model=tiny,route=adversarial,verdict=flag}"] == 1
    assert found["lazaret_verdicts_total{model=tiny,route=quality,verdict=flag}"] == 1
    assert found["lazaret_bypasses_total{model=tiny}"] == 1
    assert found["lazaret_decisive_total{detector=mean,model=tiny}"] == 1
    assert found["lazaret_decisive_total{detector=quality,model=tiny}"] == 1
    # What was not judged has no p-value of the detector that failed.
    assert found["lazaret_p_value_count{detector=fused,model=tiny}"] == 3
    assert found["lazaret_p_value_count{detector=range,model=tiny}"] == 4
    assert found["lazaret_request_seconds_count{interface=diagnose,model=tiny}"] == 4
    for stage in by.STAGE.values:
        assert found[f"lazaret_stage_seconds_count{{model=tiny,stage={stage}}}"] == 4, stage
    assert found["lazaret_ready{model=tiny}"] == 1
    assert found["lazaret_calibrated_fpr{class=dark,level=flag,model=tiny}"] == 0.01
    assert found["lazaret_calibrated_fpr_bound{class=bright,level=reject,model=tiny}"] == 0.001
    assert found["lazaret_calibration_images{class=dark,model=tiny}"] == 999
    assert any(key.startswith("lazaret_model_info{bundle=sha256:") for key in found)


def test_what_was_full_is_counted(settings: Settings) -> None:
    with serving(settings.model_copy(update={"max_held_bytes": 10})) as client:
        assert client.post("/diagnose", content=flat(1), headers=PNG).status_code == 503
        found = samples(client.get("/metrics").text)
    assert found["lazaret_shed_total{reason=memory}"] == 1
    assert found["lazaret_requests_total{interface=diagnose,outcome=shed}"] == 1


def test_openmetrics_where_it_is_asked_for(client: TestClient) -> None:
    asked = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    answer = client.get("/metrics", headers={"Accept": asked})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in openmetrics(answer.text)}
    assert {metric.name for metric in c.ALL} <= names
    for accept in ("", "*/*", "text/plain", "application/openmetrics-textual; version=é"):
        plainly = client.get("/metrics", headers={"Accept": accept.encode()})
        assert plainly.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    hostile = client.get("/metrics", headers={"Accept": f"{asked.partition(';')[0]};version=abc"})
    assert hostile.status_code == 200


def test_an_exemplar_is_a_trace_id_and_nothing_else() -> None:
    metrics = Metrics()
    metrics.allow(by.MODEL, ["tiny"])
    metrics.observe(c.REQUEST_SECONDS, 0.2, "tiny", "diagnose", trace_id=32 * "a")
    metrics.observe(c.STAGE_SECONDS, 0.2, "tiny", "infer", trace_id=32 * "a")
    text, _ = page(metrics.registry, "application/openmetrics-text")
    exemplars = [line for line in text.decode().splitlines() if " # {" in line]
    (line,) = exemplars
    assert 'le="0.25"' in line
    assert f'trace_id="{32 * "a"}"' in line


def test_a_gauge_that_cannot_be_read_does_not_hide_the_others(client: TestClient) -> None:
    metrics = Metrics()
    metrics.watch(c.SPOOL_BYTES, lambda: 1 / 0)
    metrics.watch(c.SPOOL_OLDEST, lambda: 7.0)
    metrics.refresh()
    text, _ = page(metrics.registry, "")
    assert samples(text.decode())["lazaret_spool_oldest_seconds{}"] == 7


def test_a_counter_is_there_before_its_first_event() -> None:
    metrics = Metrics()
    metrics.allow(by.MODEL, ["tiny"])
    before = samples(page(metrics.registry, "")[0].decode())
    for name in (
        "lazaret_bypasses_total{model=tiny}",
        "lazaret_requests_total{interface=diagnose,outcome=failed}",
        "lazaret_canaries_total{kind=adversarial,model=tiny,outcome=missed}",
        "lazaret_record_failures_total{}",
    ):
        assert before[name] == 0  # increase() of a counter that starts at 1 is nothing
