"""The Open Inference Protocol over HTTP, spoken byte by byte."""

import base64
import hashlib
import json
import math
import sqlite3
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import serving
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from test_diagnose_api import BreakingEngine
from tiny_bundle import ACCEPTED, FLAGGED, REJECTED, flat, write_bundle

from service.settings import Settings

INFER = "/v2/models/tiny/infer"


def pixels(*grays: int, side: int = 32) -> np.ndarray:
    return np.stack([np.full((side, side, 1), gray, np.uint8) for gray in grays])


def image(data: Any, shape: list[int], datatype: str = "UINT8", **more: Any) -> dict[str, Any]:
    return {"name": "image", "shape": shape, "datatype": datatype, "data": data, **more}


def as_json(images: np.ndarray, **more: Any) -> dict[str, Any]:
    return {"inputs": [image(images.reshape(-1).tolist(), list(images.shape))], **more}


def as_binary(document: dict[str, Any], raw: bytes) -> dict[str, Any]:
    """Arguments of a request with a tensor behind its JSON."""
    text = json.dumps(document).encode()
    return {
        "content": text + raw,
        "headers": {"Inference-Header-Content-Length": str(len(text))},
    }


def declared(size: object, shape: list[int], datatype: str = "UINT8") -> dict[str, Any]:
    entry = {"name": "image", "shape": shape, "datatype": datatype}
    return {"inputs": [{**entry, "parameters": {"binary_data_size": size}}]}


def by_name(answer: dict[str, Any]) -> dict[str, Any]:
    return {output["name"]: output.get("data") for output in answer["outputs"]}


def assert_error(response: Any, status: int, words: str = "") -> None:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    document = response.json()
    assert set(document) == {"error"}
    assert words in document["error"]
    assert response.headers["X-Request-ID"]


def test_health_and_metadata(client: TestClient) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for address in ("/v2/models/tiny", "/v2/models/tiny/versions/1"):
        assert client.get(f"{address}/ready").json() == {"name": "tiny", "ready": True}
        model = client.get(address).json()
        assert (model["name"], model["versions"]) == ("tiny", ["1"])
        assert model["inputs"] == [
            {"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, -1]}
        ]
        outputs = {o["name"]: (o["datatype"], o["shape"]) for o in model["outputs"]}
        assert outputs["probabilities"] == ("FP32", [-1, 2])
        assert outputs["verdict"] == ("BYTES", [-1])
    for address in ("/v2/models/other", "/v2/models/tiny/versions/2", "/v2/nothing"):
        assert_error(client.get(address), 404)


def test_a_batch_carries_every_images_verdict(client: TestClient, tmp_path: Path) -> None:
    asked = as_json(pixels(ACCEPTED, FLAGGED, REJECTED), id="order-1")
    response = client.post(INFER, json=asked)
    answer = response.json()
    assert response.status_code == 200, answer
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", "1", "order-1")
    assert response.headers["X-Request-ID"] == "order-1"
    outputs = by_name(answer)
    assert outputs["verdict"] == ["accept", "flag", "reject"]
    assert outputs["route"] == ["", "adversarial", "adversarial"]
    assert outputs["label"] == ["dark", "dark", ""]
    assert outputs["probabilities"][4:] == [None, None]  # withheld
    assert sum(outputs["probabilities"][:2]) == pytest.approx(1)
    assert answer["parameters"]["verdict"] == "reject"
    assert answer["parameters"]["held"] == 2
    cases = {case["case_id"]: case for case in client.get("/cases").json()}
    assert set(cases) == set(outputs["case_id"]) - {""}
    held = client.get(f"/cases/{outputs['case_id'][2]}/image")
    assert held.headers["Content-Type"] == "image/png"
    assert client.post("/diagnose", content=held.content).json()["verdict"] == "reject"
    with sqlite3.connect(tmp_path / "records.sqlite3") as database:
        rows = database.execute("SELECT request_id, verdict FROM requests ORDER BY request_id")
        recorded = dict(rows.fetchall())
    assert recorded.items() >= {
        "order-1.0": "accept", "order-1.1": "flag", "order-1.2": "reject",
    }.items()  # fmt: skip


def test_the_same_image_is_judged_alike_at_every_door(client: TestClient) -> None:
    file = client.post("/diagnose", content=flat(ACCEPTED)).json()
    raw = pixels(ACCEPTED)
    shape = list(raw.shape)
    prefixed = struct.pack("<I", len(flat(ACCEPTED))) + flat(ACCEPTED)
    for asked in (
        {"json": as_json(raw)},
        {"json": {"inputs": [image(raw.tolist(), shape)]}},
        {"json": {"inputs": [image([base64.b64encode(flat(ACCEPTED)).decode()], [1], "BYTES")]}},
        as_binary(declared(raw.nbytes, shape), raw.tobytes()),
        as_binary(declared(len(prefixed), [1], "BYTES"), prefixed),
        as_binary(declared(len(prefixed), [1, 1], "BYTES"), prefixed),
    ):
        response = client.post(INFER, **asked)
        outputs = by_name(response.json())
        assert outputs["probabilities"] == pytest.approx(
            list(file["diagnosis"]["probabilities"].values()), abs=1e-6
        )
        assert outputs["p_value"] == pytest.approx([file["guard"]["p_value"]])
        assert response.json()["parameters"]["bundle"] == file["model"]["bundle"]


def test_outputs_in_binary(client: TestClient) -> None:
    raw = pixels(ACCEPTED, REJECTED)
    document = declared(raw.nbytes, list(raw.shape)) | {
        "outputs": [
            {"name": "verdict", "parameters": {"binary_data": True}},
            {"name": "p_value"},
            {"name": "probabilities", "parameters": {"binary_data": True}},
        ]
    }
    response = client.post(INFER, **as_binary(document, raw.tobytes()))
    length = int(response.headers["Inference-Header-Content-Length"])
    answer, tail = json.loads(response.content[:length]), response.content[length:]
    assert [o["name"] for o in answer["outputs"]] == ["verdict", "p_value", "probabilities"]
    words = b"\x06\0\0\0accept\x06\0\0\0reject"
    assert tail.startswith(words)
    assert len(answer["outputs"][1]["data"]) == 2
    values = np.frombuffer(tail[len(words) :], "<f4")
    assert values[:2].sum() == pytest.approx(1)
    assert all(math.isnan(value) for value in values[2:])


RAW = pixels(ACCEPTED)
SHAPE = list(RAW.shape)


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({"content": b""}, 400, "not JSON"),
        ({"content": b"{"}, 400, "not JSON"),
        ({"content": b"[" * 100_000}, 400, "not JSON"),
        ({"json": {}}, 400, "inputs"),
        ({"json": {"inputs": []}}, 400, "one input"),
        ({"json": {"inputs": [image([0], [1])] * 2}}, 400, "one input"),
        ({"json": as_json(RAW) | {"outputs": [{"name": "logits"}]}}, 400, "no output"),
        ({"json": as_json(RAW) | {"outputs": [{"name": "route"}] * 2}}, 400, "twice"),
        ({"json": {"inputs": [image([0], [1]) | {"name": "input"}]}}, 400, "no input"),
        ({"json": {"inputs": [image([0.5] * 1024, SHAPE, "FP32")]}}, 400, "cannot be FP32"),
        ({"json": {"inputs": [image([0] * 1024, SHAPE, "uint8")]}}, 400, "none of the protocol"),
        ({"json": {"inputs": [image([0] * 1024, [1, 1, 32, 32])]}}, 400, "shape"),
        ({"json": {"inputs": [image([0] * 1024, [32, 32])]}}, 400, "shape"),
        ({"json": {"inputs": [image([0] * 1024, [1, -32, -32, 1])]}}, 400, "shape"),
        ({"json": {"inputs": [image([], [0, 32, 32, 1])]}}, 400, "shape"),
        ({"json": {"inputs": [image([0] * 1023, SHAPE)]}}, 400, "1024 numbers"),
        ({"json": {"inputs": [image([256] * 1024, SHAPE)]}}, 400, "outside"),
        ({"json": {"inputs": [image([-1] * 1024, SHAPE)]}}, 400, "outside"),
        ({"json": {"inputs": [image([1.0] * 1024, SHAPE)]}}, 400, "whole numbers"),
        ({"json": {"inputs": [image([10**30] * 1024, SHAPE)]}}, 400, "whole numbers"),
        ({"json": {"inputs": [image(["x"] * 1024, SHAPE)]}}, 400, "whole numbers"),
        ({"json": {"inputs": [image([[1], 2], SHAPE)]}}, 400, "whole numbers"),
        ({"json": {"inputs": [image(["?"], [1], "BYTES")]}}, 400, "base64"),
        ({"json": {"inputs": [image([""], [2], "BYTES")]}}, 400, "2 files"),
        ({"json": {"inputs": [image([0] * 9, [9, 1, 1, 1])]}}, 413, "at most 8"),
        ({"json": {"inputs": [image(None, SHAPE)]}}, 400, "neither"),
        ({"json": as_json(pixels(1, side=8))}, 422, "at least"),
        ({"json": as_json(RAW, parameters={"timeout": -1})}, 400, "microseconds"),
        ({"json": as_json(RAW, parameters={"binary_data_output": 1})}, 400, "true or false"),
        ({"json": as_json(RAW, parameters={"sequence_id": 7})}, 400, "not offered"),
        ({"json": as_json(RAW), "headers": {"Content-Encoding": "gzip"}}, 415, "uncompressed"),
        ({"json": as_json(RAW), "headers": {"X-Request-Timeout": "no"}}, 400, "seconds"),
        (as_binary(declared(1024, SHAPE), RAW.tobytes()[:512]), 400, "512 bytes"),
        (as_binary(declared(512, SHAPE), RAW.tobytes()[:512]), 400, "1024 bytes"),
        (as_binary(declared(1024, SHAPE), RAW.tobytes() + b"x"), 400, "1025 bytes"),
        (as_binary(declared("1024", SHAPE), RAW.tobytes()), 400, "binary_data_size"),
        (as_binary(as_json(RAW), b"x"), 400, "follow the JSON"),
        (as_binary({"inputs": [image([0], SHAPE, parameters={"binary_data_size": 1})]}, b"x"), 400,
         "both"),
        (as_binary(declared(8, [1], "BYTES"), b"\0\0\0\x04abcd"), 400, "little-endian"),
        (as_binary(declared(2, [1], "BYTES"), b"\0\0"), 400, "its shape says 1"),
        (as_binary(declared(9, [1], "BYTES"), b"\x04\0\0\0abcdx"), 400, "follow the last"),
        (as_binary(declared(8, [1], "BYTES"), b"\x04\0\0\0abcd"), 415, "PNG"),
        ({"json": as_json(RAW), "headers": {"Inference-Header-Content-Length": "x"}}, 400, "JSON"),
        ({"json": as_json(RAW), "headers": {"Inference-Header-Content-Length": "9" * 11}}, 400,
         "the body has"),
        ({"json": as_json(RAW), "headers": {"Inference-Header-Content-Length": "9" * 5000}}, 400,
         "JSON"),
        ({"json": as_json(RAW), "headers": {"Inference-Header-Content-Length": "5"}}, 400, "JSON"),
        ({"content": b"x" * 200_001}, 413, "at most"),
    ],
)  # fmt: skip
def test_what_does_not_fit_gets_a_sentence(
    limited: TestClient, asked: dict[str, Any], status: int, words: str
) -> None:
    assert_error(limited.post(INFER, **asked), status, words)


@pytest.fixture(scope="module")
def limited(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    database = tmp_path_factory.mktemp("limited") / "records.sqlite3"
    settings = Settings(
        bundles=(bundle,),
        database=f"sqlite:///{database}",
        max_request_images=8,
        max_request_bytes=200_000,
    )
    with serving(settings) as client:
        yield client


@effort(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(body=st.binary(max_size=80), length=st.one_of(st.none(), st.integers(-5, 200)))
def test_no_bytes_make_it_fail(limited: TestClient, body: bytes, length: int | None) -> None:
    headers = {} if length is None else {"Inference-Header-Content-Length": str(length)}
    response = limited.post(INFER, content=body, headers=headers)
    assert_error(response, 400)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
DOCUMENT = st.fixed_dictionaries(
    {"inputs": st.lists(
        st.fixed_dictionaries(
            {"name": st.just("image") | JSON, "shape": st.lists(st.integers(-1, 40)) | JSON,
             "datatype": st.sampled_from(["UINT8", "BYTES", "FP32"]) | JSON,
             "data": st.lists(st.integers(0, 300)) | JSON},
        ), max_size=2)},
    optional={"outputs": JSON, "parameters": JSON, "id": JSON},
)  # fmt: skip


@effort(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(document=DOCUMENT)
def test_no_document_makes_it_fail(limited: TestClient, document: dict[str, Any]) -> None:
    response = limited.post(INFER, json=document)
    assert response.status_code == 200 or 400 <= response.status_code < 500, response.text


def test_one_bad_image_fails_alone(settings: Settings) -> None:
    with serving(settings, load_engine=BreakingEngine) as client:
        answer = client.post(INFER, json=as_json(pixels(ACCEPTED, 99, ACCEPTED))).json()
        outputs = by_name(answer)
        assert outputs["verdict"] == ["accept", "refused", "accept"]
        assert outputs["probabilities"][2:4] == [None, None]
        assert outputs["problem"][1].startswith("The model cannot process")
        assert (outputs["problem"][0], answer["parameters"]["verdict"]) == ("", "refused")
        assert_error(client.post(INFER, json=as_json(pixels(99))), 422)


def test_a_key_is_needed(settings: Settings, tmp_path: Path) -> None:
    keyed = settings.model_copy(update={"api_keys": {"pacs": hashlib.sha256(b"k").hexdigest()}})
    with serving(keyed) as client:
        assert_error(client.post(INFER, json=as_json(RAW)), 401)
        assert_error(client.get("/v2/models/tiny"), 401)
        assert client.get("/v2/health/ready").status_code == 200
        key = {"Authorization": "Bearer k"}
        assert client.post(INFER, json=as_json(RAW), headers=key).status_code == 200
        with sqlite3.connect(tmp_path / "records.sqlite3") as database:
            assert list(database.execute("SELECT client, status FROM requests")) == [("pacs", 200)]


def test_overload_asks_to_come_again(settings: Settings) -> None:
    with serving(settings.model_copy(update={"max_held_bytes": 4000})) as client:
        response = client.post(INFER, json=as_json(pixels(100, 101, 102)))
        assert_error(response, 503)
        assert response.headers["Retry-After"]


def test_a_full_service_answers_many_images_more_slowly(settings: Settings) -> None:
    with serving(settings.model_copy(update={"max_in_flight": 1})) as client:
        answer = client.post(INFER, json=as_json(pixels(*range(50, 60)))).json()
        assert by_name(answer)["verdict"] == ["accept"] * 10


def test_a_model_is_chosen_by_its_name(bundle: Path, settings: Settings, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", name="other")
    with serving(settings.model_copy(update={"bundles": (bundle, other)})) as client:
        answer = client.post("/v2/models/other/versions/1/infer", json=as_json(RAW)).json()
        assert answer["model_name"] == "other"
        assert_error(client.post("/v2/models/third/infer", json=as_json(RAW)), 404)
