"""Triton's own client, unmodified, must find everything where it looks."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import server_process
from test_service_process import serve
from tiny_bundle import ACCEPTED, REJECTED, flat

triton = pytest.importorskip("tritonclient.http")


@pytest.fixture(scope="module")
def address(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server_process(serve(bundle), tmp_path_factory.mktemp("triton")) as server:
        yield server.url.removeprefix("http://")


def images(*grays: int) -> np.ndarray:
    return np.stack([np.full((32, 32, 1), gray, np.uint8) for gray in grays])


def test_health_and_metadata(address: str) -> None:
    client = triton.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "lazaret"
    metadata = client.get_model_metadata("tiny")
    assert metadata["inputs"][0]["datatype"] == "UINT8"


@pytest.mark.parametrize("binary", [True, False])
def test_inference(address: str, binary: bool) -> None:
    client = triton.InferenceServerClient(address)
    batch = images(ACCEPTED, REJECTED)
    given = triton.InferInput("image", list(batch.shape), "UINT8")
    given.set_data_from_numpy(batch, binary_data=binary)
    names = ("probabilities", "verdict", "p_value")
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    found = client.infer("tiny", [given], outputs=wanted, request_id="a1", timeout=5_000_000)
    assert found.get_response()["id"] == "a1"
    probabilities = found.as_numpy("probabilities")
    assert probabilities.shape == (2, 2)
    assert probabilities[0].sum() == pytest.approx(1)
    assert np.isnan(probabilities[1].astype(np.float32)).all()
    assert [str(v, "utf-8") if isinstance(v, bytes) else v for v in found.as_numpy("verdict")] == [
        "accept", "reject",
    ]  # fmt: skip
    assert found.as_numpy("p_value").shape == (2,)


def test_files_and_all_outputs(address: str) -> None:
    client = triton.InferenceServerClient(address)
    given = triton.InferInput("image", [2], "BYTES")
    given.set_data_from_numpy(np.array([flat(ACCEPTED), flat(REJECTED)], np.object_))
    found = client.infer("tiny", [given], model_version="1")
    assert found.as_numpy("verdict").tolist() == [b"accept", b"reject"]
    assert found.as_numpy("case_id")[1]
    assert found.get_response()["parameters"]["held"] == 1


def test_errors_are_the_clients_own(address: str) -> None:
    client = triton.InferenceServerClient(address)
    given = triton.InferInput("image", [1, 32, 32, 1], "FP32")
    given.set_data_from_numpy(np.zeros((1, 32, 32, 1), np.float32))
    with pytest.raises(triton.InferenceServerException, match="cannot be FP32") as caught:
        client.infer("tiny", [given])
    assert caught.value.status() == "400"
    with pytest.raises(triton.InferenceServerException, match="not loaded"):
        client.infer("other", [given])


def test_many_at_once(address: str) -> None:
    client = triton.InferenceServerClient(address, concurrency=8)
    batch = images(ACCEPTED)
    given = triton.InferInput("image", list(batch.shape), "UINT8")
    given.set_data_from_numpy(batch)
    waiting = [client.async_infer("tiny", [given]) for _ in range(32)]
    assert {w.get_result().as_numpy("verdict").tolist()[0] for w in waiting} == {b"accept"}
