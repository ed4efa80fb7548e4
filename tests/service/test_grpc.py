"""The inference protocol over gRPC, asked by Triton's own client."""

import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TESTS, Server, server_process
from test_service_process import on_record, serve
from tiny_bundle import ACCEPTED, FLAGGED, REJECTED, flat

triton = pytest.importorskip("tritonclient.grpc")
grpc = pytest.importorskip("grpc")

KEYS = json.dumps({"pacs": hashlib.sha256(b"k").hexdigest()})
KEY = {"authorization": "Bearer k"}
LIMITS = {"LAZARET_GRPC_PORT": "0", "LAZARET_MAX_REQUEST_BYTES": "100000"}


@dataclass
class Both:
    """A server and its gRPC address."""

    server: Server
    address: str


def grpc_address(server: Server) -> str:
    for line in server.log.read_text().splitlines():
        entry = json.loads(line)
        if entry["event"] == "listening for gRPC":
            return f"127.0.0.1:{entry['port']}"
    raise AssertionError(server.log.read_text())


@pytest.fixture(scope="module")
def both(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("grpc")
    limits = {**LIMITS, "LAZARET_MAX_REQUEST_IMAGES": "8"}
    with server_process(serve(bundle), folder, limits) as server:
        yield Both(server, grpc_address(server))


@pytest.fixture
def client(both: Both) -> Any:
    return triton.InferenceServerClient(both.address)


def given(batch: np.ndarray, datatype: str = "UINT8", name: str = "image") -> Any:
    tensor = triton.InferInput(name, list(batch.shape), datatype)
    tensor.set_data_from_numpy(batch)
    return tensor


def images(*grays: int, side: int = 32) -> np.ndarray:
    return np.stack([np.full((side, side, 1), gray, np.uint8) for gray in grays])


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.get_server_metadata().name == "lazaret"
    metadata = client.get_model_metadata("tiny", "1")
    assert metadata.inputs[0].datatype == "UINT8"
    assert {output.name for output in metadata.outputs} >= {"probabilities", "verdict"}
    with pytest.raises(triton.InferenceServerException, match="NOT_FOUND"):
        client.is_model_ready("other")


def test_a_batch_of_pixels(both: Both, client: Any) -> None:
    found = client.infer(
        "tiny", [given(images(ACCEPTED, FLAGGED, REJECTED))], request_id="g1",
        headers={"x-request-id": "order-7"}, client_timeout=30,
    )  # fmt: skip
    assert found.get_response().id == "g1"
    assert found.as_numpy("verdict").tolist() == [b"accept", b"flag", b"reject"]
    probabilities = found.as_numpy("probabilities")
    assert probabilities[0].sum() == pytest.approx(1)
    assert np.isnan(probabilities[2]).all()
    parameters = found.get_response().parameters
    assert parameters["verdict"].string_param == "reject"
    assert parameters["held"].int64_param == 2
    recorded = on_record(both.server.database)
    assert recorded.items() >= {"order-7.0": 200, "order-7.1": 200, "order-7.2": 200}.items()


def test_files_and_chosen_outputs(client: Any) -> None:
    files = np.array([flat(ACCEPTED), flat(REJECTED, form="JPEG")], np.object_)
    wanted = [triton.InferRequestedOutput("p_value"), triton.InferRequestedOutput("label")]
    found = client.infer("tiny", [given(files, "BYTES")], outputs=wanted)
    assert [output.name for output in found.get_response().outputs] == ["p_value", "label"]
    assert found.as_numpy("label").tolist() == [b"dark", b""]


@pytest.mark.parametrize(
    ("tensors", "outputs", "code", "words"),
    [
        ([given(np.zeros((1, 32, 32, 1), np.float32), "FP32")], [], "INVALID_ARGUMENT", "FP32"),
        ([given(np.zeros((1, 1, 32, 32), np.uint8))], [], "INVALID_ARGUMENT", "shape"),
        ([given(images(1), name="x")], [], "INVALID_ARGUMENT", "no input"),
        ([given(images(1)), given(images(1))], [], "INVALID_ARGUMENT", "one input"),
        ([given(images(1))], ["logits"], "INVALID_ARGUMENT", "no output"),
        ([given(images(1, side=8))], [], "INVALID_ARGUMENT", "at least"),
        ([given(images(*range(9)))], [], "RESOURCE_EXHAUSTED", "at most 8"),
        ([given(images(1, side=500))], [], "RESOURCE_EXHAUSTED", ""),
        ([given(np.array([b"rubbish"], np.object_), "BYTES")], [], "INVALID_ARGUMENT", "PNG"),
    ],
)
def test_what_does_not_fit_gets_a_sentence(
    client: Any, tensors: list[Any], outputs: list[str], code: str, words: str
) -> None:
    wanted = [triton.InferRequestedOutput(name) for name in outputs]
    with pytest.raises(triton.InferenceServerException, match=words) as caught:
        client.infer("tiny", tensors, outputs=wanted)
    assert code in caught.value.status()


def test_half_a_tensor_is_refused(client: Any) -> None:
    tensor = given(images(ACCEPTED))
    tensor._raw_content = tensor._raw_content[:500]
    with pytest.raises(triton.InferenceServerException, match="500 came"):
        client.infer("tiny", [tensor])


def test_rubbish_leaves_it_standing(both: Both, client: Any) -> None:
    channel = grpc.insecure_channel(both.address)
    for method in ("ModelInfer", "ModelMetadata", "Nothing"):
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        with pytest.raises(grpc.RpcError):
            call(b"\xff" * 100, timeout=10)
    assert client.is_server_ready()


def test_a_key_is_needed_and_a_deadline_kept(bundle: Path, tmp_path: Path) -> None:
    command = [str(TESTS / "slow_server.py"), str(bundle), "0.3"]
    with server_process(command, tmp_path, {**LIMITS, "LAZARET_API_KEYS": KEYS}) as server:
        client = triton.InferenceServerClient(grpc_address(server))
        assert client.is_server_ready()
        for headers in (None, {"authorization": "Bearer x"}):
            with pytest.raises(triton.InferenceServerException, match="UNAUTHENTICATED"):
                client.infer("tiny", [given(images(ACCEPTED))], headers=headers)
            with pytest.raises(triton.InferenceServerException, match="UNAUTHENTICATED"):
                client.get_model_metadata("tiny", headers=headers)
        with pytest.raises(triton.InferenceServerException, match="deadline passed during"):
            client.infer("tiny", [given(images(ACCEPTED))], headers=KEY, timeout=100_000)
        assert client.infer("tiny", [given(images(ACCEPTED))], headers=KEY)
        with sqlite3.connect(server.database) as database:
            assert list(database.execute("SELECT client, status FROM requests")) == [("pacs", 200)]


def test_grpc_is_imported_only_where_a_port_is_set() -> None:
    code = "import service.app, service.cli, sys; assert not {'grpc', 'google'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_answer_brings_the_trace_back(both: Both) -> None:
    trace = 32 * "a"
    header = {"traceparent": f"00-{trace}-{16 * 'b'}-01"}
    with grpc.insecure_channel(both.address) as channel:
        for name, fails in (("ServerReady", False), ("ModelReady", True)):
            call = channel.unary_unary(
                f"/inference.GRPCInferenceService/{name}",
                request_serializer=lambda message: message.SerializeToString(),
            )
            asked = triton.service_pb2.ModelReadyRequest(name="none" if fails else "")
            try:
                _, told = call.with_call(asked, metadata=tuple(header.items()))
            except grpc.RpcError as error:
                told = error
            found = dict(told.trailing_metadata())["traceparent"]
            assert found.startswith(f"00-{trace}-")
            assert 16 * "b" not in found
            assert (told.code() is grpc.StatusCode.OK) is not fails
