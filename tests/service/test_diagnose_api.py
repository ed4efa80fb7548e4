"""The contract of ``POST /diagnose`` and its neighbours, as a client sees it."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import serving
from fastapi.testclient import TestClient
from tiny_bundle import ACCEPTED, FLAGGED, REJECTED, UNJUDGED, degraded, encode, flat, write_bundle

from models.engine import Batch, Readings
from service.app import create_app
from service.guard import onnx_engine
from service.settings import AlphaOverrides, PolicyOverrides, Settings, SettingsProblem

PNG = {"Content-Type": "image/png"}


def test_serving_imports_no_torch() -> None:
    heavy = ("torch", "scipy", "sklearn", "matplotlib", "onnx")
    code = f"import service.app, service.cli, sys; assert not set({heavy}) & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("as_part", [True, False])
def test_an_accepted_image(client: TestClient, form: str, as_part: bool) -> None:
    data, kind = flat(ACCEPTED, form=form), f"image/{form.lower()}"
    if as_part:
        response = client.post("/diagnose", files={"image": ("Doe^Jane.png", data, kind)})
    else:
        response = client.post("/diagnose", content=data, headers={"Content-Type": kind})
    assert response.status_code == 200
    answer = response.json()
    assert response.headers["X-Request-ID"] == answer["request_id"]
    assert answer["model"]["name"] == "tiny"
    assert answer["model"]["bundle"].startswith("sha256:")
    assert (answer["verdict"], answer["route"], answer["case_id"]) == ("accept", None, None)
    assert answer["diagnosis"]["label"] == "dark"
    assert sum(answer["diagnosis"]["probabilities"].values()) == pytest.approx(1)
    # 100 / 255 = 0.392; of 999 scores spaced by 0.5 / 998 up to 0.5, those at or above it: 216
    assert answer["guard"]["p_value"] == pytest.approx(0.217)
    assert answer["guard"]["alpha"] == {"flag": 0.01, "reject": 0.001, "quality": 0.01}
    assert [d["name"] for d in answer["guard"]["detectors"]] == ["mean", "range"]
    timing = answer["timing_ms"]
    assert timing["total"] >= timing["decode"] + timing["queue"] + timing["infer"]


@pytest.mark.parametrize(
    ("data", "verdict", "route", "label"),
    [
        (flat(FLAGGED), "flag", "adversarial", "dark"),
        (flat(REJECTED), "reject", "adversarial", None),
        (degraded(), "flag", "quality", "dark"),
        (flat(UNJUDGED), "reject", "quality", None),
    ],
)
def test_a_held_image_becomes_a_case(
    client: TestClient, data: bytes, verdict: str, route: str, label: str | None
) -> None:
    answer = client.post("/diagnose", content=data, headers=PNG).json()
    assert (answer["verdict"], answer["route"]) == (verdict, route)
    assert (answer["diagnosis"] or {}).get("label") == label
    (listed,) = client.get("/cases", params={"state": "open"}).json()
    assert listed["case_id"] == answer["case_id"]
    assert listed["request_id"] == answer["request_id"]
    case = client.get(f"/cases/{answer['case_id']}").json()
    assert case["evidence"]["diagnosis"]["label"] in ("dark", "bright")
    assert case["evidence"]["guard"]["reason"] == answer["guard"]["reason"]
    image = client.get(f"/cases/{answer['case_id']}/image")
    assert image.content == data
    assert image.headers["X-Content-Type-Options"] == "nosniff"
    assert client.get("/cases/" + 32 * "0").status_code == 404


def test_a_failing_detector_by_policy(settings: Settings) -> None:
    open_ = settings.model_copy(
        update={"policies": {"tiny": PolicyOverrides(on_detector_failure="open")}}
    )
    with serving(open_) as client:
        answer = client.post("/diagnose", content=flat(UNJUDGED), headers=PNG).json()
        assert answer["verdict"] == "accept"
        assert answer["guard"]["bypass"] is True
        assert answer["guard"]["p_value"] is None
        assert 'lazaret_bypasses_total{model="tiny"} 1.0' in client.get("/metrics").text


def test_the_operator_chooses_the_rates(settings: Settings) -> None:
    chosen = PolicyOverrides(alphas=AlphaOverrides(flag=0.5))
    with serving(settings.model_copy(update={"policies": {"tiny": chosen}})) as client:
        answer = client.post("/diagnose", content=flat(ACCEPTED), headers=PNG).json()
        assert (answer["verdict"], answer["guard"]["alpha"]["flag"]) == ("flag", 0.5)
        (model,) = client.get("/models").json()
        # 999 images assure a rate of 0.5 at somewhat less than it, and 0.001 not at all
        assert 0.45 < model["classes"][0]["flag"] < 0.5
        assert model["classes"][0]["reject"] is None


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"", PNG, 400),
        (b"", {}, 400),
        (b"not an image", {}, 415),
        (flat(ACCEPTED)[:60], PNG, 400),
        (flat(ACCEPTED), {"Content-Type": "image/jpeg"}, 415),
        (flat(ACCEPTED, side=1), PNG, 422),
        (encode(np.zeros((1100, 1000), np.uint8)), PNG, 413),
        (100_001 * b"x", PNG, 413),
        (b"--x--", {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        (b"rubbish", {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        (b"rubbish", {"Content-Type": "multipart/form-data"}, 400),
        (b"rubbish", {"Content-Type": "multipart/form-data; boundary=" + 999 * "x"}, 400),
    ],
)
def test_bad_input_gets_a_problem(
    settings: Settings, content: bytes, headers: dict[str, str], status: int
) -> None:
    small = settings.model_copy(update={"max_file_bytes": 100_000, "max_pixels": 1_000_000})
    with serving(small) as client:
        response = client.post("/diagnose", content=content, headers=headers)
    assert_problem(response, status)


def assert_problem(response: object, status: int) -> None:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:lazaret:problem:")
    assert problem["detail"]
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert ("Retry-After" in response.headers) == (status == 503)


def test_forms_that_hold_no_single_image(client: TestClient) -> None:
    part = ("a.png", flat(ACCEPTED), "image/png")
    assert_problem(client.post("/diagnose", files={"file": part}), 400)
    assert_problem(client.post("/diagnose", files=[("image", part), ("image", part)]), 400)
    assert_problem(client.post("/diagnose", files=[(f"f{i}", part) for i in range(99)]), 400)


def test_every_other_error_is_a_problem_too(client: TestClient) -> None:
    assert_problem(client.get("/nowhere"), 404)
    wrong_method = client.get("/diagnose")
    assert_problem(wrong_method, 405)
    assert wrong_method.headers["Allow"] == "POST"
    assert_problem(client.get("/cases", params={"limit": "many"}), 422)
    assert_problem(client.get("/cases/..%2fetc"), 404)
    assert_problem(client.get("/cases/ABC"), 422)


def test_request_ids_are_honoured_when_plain(client: TestClient) -> None:
    for given, kept in [("order-66:a_b.c", True), ("a b", False), ("x" * 129, False), ("", False)]:
        response = client.post("/diagnose", content=b"", headers={"X-Request-ID": given})
        assert (response.headers["X-Request-ID"] == given) == kept


def test_several_models(bundle: Path, settings: Settings, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", name="other")
    with serving(settings.model_copy(update={"bundles": (bundle, other)})) as client:
        assert {m["name"] for m in client.get("/models").json()} == {"tiny", "other"}
        image = {"content": flat(ACCEPTED), "headers": PNG}
        ambiguous = client.post("/diagnose", **image)
        assert_problem(ambiguous, 400)
        assert "tiny, other" in ambiguous.json()["detail"]
        assert_problem(client.post("/diagnose?model=third", **image), 404)
        assert client.post("/diagnose?model=other", **image).json()["model"]["name"] == "other"


def test_two_bundles_of_one_name_are_refused(bundle: Path, settings: Settings) -> None:
    with pytest.raises(SettingsProblem, match="two bundles"):
        create_app(settings.model_copy(update={"bundles": (bundle, bundle)}))


def test_a_key_is_needed_where_keys_are_set(settings: Settings) -> None:
    keyed = settings.model_copy(update={"api_keys": {"pacs": hashlib.sha256(b"k").hexdigest()}})
    with serving(keyed) as client:
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic k"}):
            for method, path in [("POST", "/diagnose"), ("GET", "/cases"), ("GET", "/models")]:
                response = client.request(method, path, headers=headers)
                assert_problem(response, 401)
                assert response.headers["WWW-Authenticate"] == "Bearer"
        key = {"Authorization": "Bearer k"}
        assert client.post("/diagnose", content=flat(ACCEPTED), headers=key).status_code == 200
        assert client.get("/cases", headers=key).json() == []
        assert client.get("/livez").status_code == 200
        assert client.get("/metrics").status_code == 200


def test_a_rebound_name_cannot_ask_anonymously(client: TestClient) -> None:
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[evil]", ""):
        assert_problem(client.get("/cases", headers={"Host": host}), 403)
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert client.get("/cases", headers={"Host": host}).status_code == 200


def test_neither_logs_nor_metrics_carry_what_a_client_wrote(
    client: TestClient, capfd: pytest.CaptureFixture[str]
) -> None:
    name = "Doe^Jane-1970"
    for data in (flat(ACCEPTED), flat(REJECTED), b"rubbish"):
        client.post(f"/diagnose?model={name}", content=data)
        client.post("/diagnose", files={"image": (name, data, f"image/{name}")})
        client.post("/diagnose", files={"image": (name, data)}, headers={"X-Trace": name})
    out, err = capfd.readouterr()
    assert name not in out + err + client.get("/metrics").text


class BreakingEngine:
    """Fails on any image whose first pixel is 99."""

    def __init__(self, graph: bytes, settings: Settings) -> None:
        self._engine = onnx_engine(graph, settings)

    def run(self, images: Batch) -> Readings:
        if 99 in images[:, 0, 0, 0]:
            raise RuntimeError("kernel error on /srv/secret/path")
        return self._engine.run(images)

    def warm_up(self) -> None:
        self._engine.warm_up()


def test_an_image_that_breaks_the_engine_is_unusable(settings: Settings) -> None:
    with serving(settings, load_engine=BreakingEngine) as client:
        response = client.post("/diagnose", content=flat(99), headers=PNG)
        assert_problem(response, 422)
        assert "secret" not in response.text
        assert client.post("/diagnose", content=flat(100), headers=PNG).status_code == 200


def test_what_cannot_be_recorded_is_withheld(settings: Settings, tmp_path: Path) -> None:
    import sqlite3

    with serving(settings) as client:
        with sqlite3.connect(tmp_path / "records.sqlite3") as database:
            database.execute("DROP TABLE requests")
        for data in (flat(ACCEPTED), b"rubbish"):
            response = client.post("/diagnose", content=data)
            assert_problem(response, 503)
            assert "dark" not in response.text
        assert "lazaret_record_failures_total 2.0" in client.get("/metrics").text


def test_without_a_bundle_it_is_alive_but_not_ready(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"bundles": ()}))
    with TestClient(app, "http://127.0.0.1") as client:
        assert client.get("/livez").status_code == 200
        assert_problem(client.get("/readyz"), 503)
        assert_problem(client.post("/diagnose", content=flat(ACCEPTED)), 503)


def test_openapi_shows_the_forms_and_examples(client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/diagnose"]["post"]
    assert {"multipart/form-data", "image/png"} <= set(operation["requestBody"]["content"])
    example = operation["responses"]["200"]["content"]["application/json"]["example"]
    answer = client.post("/diagnose", content=flat(FLAGGED)).json()
    assert shape(example) == shape(answer)
    assert "application/problem+json" in operation["responses"]["413"]["content"]


def shape(document: object) -> object:
    """The keys of a document, free mappings left out."""
    if not isinstance(document, dict):
        return None
    free = ("probabilities", "detectors")
    return {key: shape(value) if key not in free else None for key, value in document.items()}


def test_lines_of_the_log_are_json(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    from service.logs import configure

    configure("info")
    with serving(settings) as client:
        client.post("/diagnose", content=flat(REJECTED))
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    (judged,) = [event for event in events if event["event"] == "judged"]
    assert judged["verdict"] == "reject"
    assert judged["pixels"].startswith("sha256:")
