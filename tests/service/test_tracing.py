"""One request can be followed by one id through answers, logs, exemplars and spans."""

import json
import re
import subprocess
import sys
from itertools import pairwise

import pytest
from conftest import serving
from fastapi.testclient import TestClient
from otlp_collector import collector
from tiny_bundle import ACCEPTED, REJECTED, flat

from service import logs
from service.settings import Settings
from service.trace_context import current, followed, next_context

PNG = {"Content-Type": "image/png"}
TRACE, PARENT = 32 * "a", 16 * "b"
GIVEN = f"00-{TRACE}-{PARENT}-01"
STAGES = {"receive", "decode", "queue", "infer", "decide", "record"}


def test_the_sdk_is_not_imported_unless_it_is_wanted() -> None:
    code = (
        "import service.app, service.cli, sys; "
        "assert not {'opentelemetry.sdk', 'opentelemetry.exporter'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "header",
    [
        "", "x", f"00-{TRACE}-{PARENT}", f"ff-{TRACE}-{PARENT}-01", f"00-{32 * '0'}-{PARENT}-01",
        f"00-{TRACE}-{16 * '0'}-01", f"00-{TRACE.upper()}-{PARENT}-01", f"{GIVEN}-more",
        f"00-{TRACE}-{PARENT}-01" + 999 * "1", "00-Doe^Jane-1.2.840-01", "é",
    ],
)  # fmt: skip
def test_a_malformed_traceparent_begins_a_trace(header: str) -> None:
    context = next_context(header)
    assert re.fullmatch(r"[0-9a-f]{32}", context.trace_id)
    assert context.trace_id != TRACE
    assert (context.parent_id, context.sampled) == (None, None)


def test_a_later_version_is_understood_as_far_as_it_goes() -> None:
    assert next_context(f"cc-{TRACE}-{PARENT}-00-more").trace_id == TRACE
    assert next_context(f"cc-{TRACE}-{PARENT}-00").sampled is False


def test_a_span_belongs_under_the_request_where_that_has_one() -> None:
    with followed(GIVEN, served=True) as request:
        assert request.above == request.span_id
    with followed(GIVEN) as association:
        assert association.above == PARENT
    with followed() as begun:
        assert begun.above is None


def test_a_context_ends_with_its_work() -> None:
    with followed(GIVEN) as context:
        assert current() is context
    assert current() is None


def test_the_answer_the_log_and_the_exemplar_carry_one_id(
    client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info")
    answered = client.post(
        "/diagnose", content=flat(ACCEPTED), headers={**PNG, "traceparent": GIVEN}
    )
    assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-01", answered.headers["traceparent"])
    assert PARENT not in answered.headers["traceparent"]
    (line,) = [json.loads(x) for x in capsys.readouterr().err.splitlines() if '"judged"' in x]
    assert line["trace_id"] == TRACE
    assert line["span_id"] == answered.headers["traceparent"].split("-")[2]
    text = client.get("/metrics", headers={"Accept": "application/openmetrics-text"}).text
    seconds = [x for x in text.splitlines() if x.startswith("lazaret_request_seconds_bucket")]
    assert sum(f'# {{trace_id="{TRACE}"}}' in line for line in seconds) == 1


def test_spans_tell_what_a_diagnosis_took(settings: Settings) -> None:
    with collector() as found:
        chosen = settings.model_copy(update={"otlp_endpoint": found.url})
        with serving(chosen) as client:
            client.post("/diagnose", content=flat(REJECTED), headers={**PNG, "traceparent": GIVEN})
            client.get("/cases/" + 32 * "0")
        spans = found.wait_for({"POST /diagnose", "diagnosis", *STAGES})
    by_name = {span.name: span for span in spans}
    assert not any(name.endswith(("/readyz", "/metrics")) for name in by_name)
    assert "GET /cases/{case_id}" in by_name
    request, diagnosis = by_name["POST /diagnose"], by_name["diagnosis"]
    assert request.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == PARENT
    assert diagnosis.parent_span_id == request.span_id
    attributes = {a.key: a.value.string_value for a in diagnosis.attributes}
    assert attributes["lazaret.verdict"] == "reject"
    stages = [by_name[stage] for stage in ("receive", "decode", "queue", "infer", "decide")]
    for before, after in pairwise(stages):
        assert before.parent_span_id == diagnosis.span_id
        assert before.end_time_unix_nano <= after.start_time_unix_nano + 1000
    assert request.start_time_unix_nano <= stages[0].start_time_unix_nano + 1_000_000
    assert stages[-1].end_time_unix_nano <= request.end_time_unix_nano


@pytest.mark.parametrize(("flags", "share", "sent"), [("00", 1.0, 0), ("01", 0.0, 1)])
def test_the_callers_decision_is_kept(
    settings: Settings, flags: str, share: float, sent: int
) -> None:
    with collector() as found:
        chosen = settings.model_copy(update={"otlp_endpoint": found.url, "trace_share": share})
        with serving(chosen) as client:
            header = {**PNG, "traceparent": f"00-{TRACE}-{PARENT}-{flags}"}
            answered = client.post("/diagnose", content=flat(ACCEPTED), headers=header)
        assert len([span for span in found.spans() if span.name == "diagnosis"]) == sent
    assert answered.headers["traceparent"].endswith(f"-{flags}")


def test_a_collector_that_is_gone_changes_no_answer(settings: Settings) -> None:
    chosen = settings.model_copy(update={"otlp_endpoint": "http://127.0.0.1:9"})
    with serving(chosen) as client:
        assert client.post("/diagnose", content=flat(ACCEPTED), headers=PNG).status_code == 200
