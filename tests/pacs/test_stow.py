"""STOW-RS: what a DICOMweb client sends is kept as C-STORE keeps it, and told by the standard."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pydicom
import pytest
import uvicorn
from dicomweb_client import DICOMwebClient
from fastapi import FastAPI, Response
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest
from receiving import write_image, write_images

from service import problems
from service.admission import Admission
from service.auth import Auth
from service.metrics import Metrics
from service.pacs import stow
from service.pacs.multipart import MultipartProblem, Parts
from service.pacs.node import Node
from service.pacs.spool import Spool
from service.server import bind
from service.settings import Settings

RELATED = 'multipart/related; type="application/dicom"; boundary=B'
KEY_HASH = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"  # of "key"


def body(*parts: bytes, media_type: str = "application/dicom") -> bytes:
    head = f"--B\r\nContent-Type: {media_type}\r\n\r\n".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + b"--B--\r\n"


def given_settings(tmp_path: Path, **changes: object) -> Settings:
    return Settings.load(
        database=f"sqlite:///{tmp_path}/records.sqlite3", dicomweb=True,
        spool=tmp_path / "spool", spool_reserve_bytes=0, **changes,
    )  # fmt: skip


def create_app(settings: Settings) -> FastAPI:
    """The receiving half alone, so that what was received stays in the spool."""
    app, metrics = FastAPI(), Metrics()
    problems.install(app)
    auth = Auth(settings.keys(), settings.host, settings.anonymous)
    app.include_router(stow.routes(Node(settings, metrics), auth, Admission(8, 2**24), settings))
    app.add_api_route("/livez", lambda: "ok")
    app.add_api_route("/metrics", lambda: Response(generate_latest(metrics.registry)))
    return app


@contextmanager
def stowing(tmp_path: Path, **changes: object) -> Iterator[tuple[TestClient, Spool]]:
    app = create_app(given_settings(tmp_path, **changes))
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
        spool = Spool(tmp_path / "spool", reserve_bytes=0)
        yield client, spool
        spool.close()


def post(
    client: TestClient, content: bytes, path: str = "", media_type: str = RELATED, **more: str
) -> httpx.Response:
    headers = {"Content-Type": media_type, **more}
    return client.post(f"/dicomweb/studies{path}", content=content, headers=headers)


def instances(answer: httpx.Response, tag: str) -> list[str]:
    sequence = answer.json().get(tag, {"Value": []})["Value"]
    return [item["00081155"]["Value"][0] for item in sequence]


def reasons(answer: httpx.Response, tag: str = "00081198") -> list[int]:
    return [item["00081197"]["Value"][0] for item in answer.json()[tag]["Value"]]


def test_dicomweb_client_stores_a_study(tmp_path: Path) -> None:
    uids = write_images(tmp_path / "files", 3)
    datasets = [pydicom.dcmread(path) for path in sorted((tmp_path / "files").iterdir())]
    config = uvicorn.Config(create_app(given_settings(tmp_path)), log_config=None)
    server, listening = uvicorn.Server(config), bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        client = DICOMwebClient(f"http://127.0.0.1:{listening.getsockname()[1]}/dicomweb")
        answer = client.store_instances(datasets, study_instance_uid="1.2.3")
    finally:
        server.should_exit = True
        thread.join()
    stored = [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence]
    assert stored == uids
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    entries = list(spool.waiting())
    assert [entry.received.sop_instance for entry in entries] == uids
    assert {entry.received.protocol for entry in entries} == {"stow"}
    assert pydicom.dcmread(entries[0].path).PixelData == datasets[0].PixelData


def test_some_or_none_kept_is_told_for_each(tmp_path: Path) -> None:
    good = write_image(tmp_path / "1.dcm", "1.2.1").read_bytes()
    other_study = write_image(tmp_path / "2.dcm", "1.2.2", StudyInstanceUID="9.9").read_bytes()
    no_study = write_image(tmp_path / "3.dcm", "1.2.3", StudyInstanceUID=None).read_bytes()
    unknown = write_image(tmp_path / "4.dcm", "1.2.4").read_bytes()
    unknown = unknown.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.99", 1)
    private = write_image(tmp_path / "5.dcm", "1.2.5", SOPClassUID="1.3.6.1.4.1.9.9").read_bytes()
    program = b"MZ" + good[2:]
    with stowing(tmp_path) as (client, spool):
        parts = [good, other_study, no_study, unknown, private,
                 program, b"no file at all"]  # fmt: skip
        answer = post(client, body(*parts), "/1.2.3")
        assert answer.status_code == 202
        assert answer.headers["Content-Type"] == "application/dicom+json"
        assert instances(answer, "00081199") == ["1.2.1"]
        assert instances(answer, "00081198") == ["1.2.2", "1.2.3", "1.2.4", "1.2.5"]
        assert reasons(answer) == [0xA900, 0xC000, 0xC122, 0x0122]
        assert reasons(answer, "0008119A") == [0xC000, 0xC000]
        assert [entry.received.sop_instance for entry in spool.waiting()] == ["1.2.1"]
        assert [entry.reason for entry in spool.set_aside_entries()] == ["other-study", "no-uid"]
        assert post(client, body(other_study), "/1.2.3").status_code == 409
        again = post(client, body(good))
        assert (again.status_code, instances(again, "00081199")) == (200, ["1.2.1"])
        assert len(list(spool.waiting())) == 1


def test_one_instance_as_the_body(tmp_path: Path) -> None:
    image = write_image(tmp_path / "1.dcm").read_bytes()
    with stowing(tmp_path) as (client, spool):
        assert post(client, image, media_type="application/dicom").status_code == 200
        assert len(list(spool.waiting())) == 1


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, Spool]]:
    """One that takes instances of 200 KB at most."""
    with stowing(tmp_path_factory.mktemp("small"), dicom_instance_bytes=200_000) as both:
        yield both


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"", RELATED, 400),
        (b"--B--\r\n", RELATED, 400),
        (body(b"x")[:-8], RELATED, 400),
        (b"no boundary", RELATED, 400),
        (body(b"x"), RELATED.replace("; boundary=B", ""), 400),
        (body(b"x"), RELATED.replace("=B", f"={'B' * 100}"), 400),
        (b"--B\r\n" + b"A: " + b"x" * 10_000, RELATED, 400),
        (body(b"x"), "multipart/form-data; boundary=B", 415),
        (b"{}", 'multipart/related; type="application/dicom+json"; boundary=B', 415),
        (b"{}", "application/json", 415),
        (body(bytes(300_000)), RELATED, 413),
        (bytes(300_000), "application/dicom", 413),
        (b"", "application/dicom", 409),
    ],
)
def test_a_wrong_body_is_a_problem_document(
    small: tuple[TestClient, Spool], content: bytes, media_type: str, status: int
) -> None:
    client, spool = small
    answer = post(client, content, media_type=media_type)
    assert answer.status_code == status
    if status != 409:
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert not list(spool.waiting())
    assert client.get("/livez").status_code == 200


def test_who_may_send_and_where(tmp_path: Path) -> None:
    image = body(write_image(tmp_path / "1.dcm").read_bytes())
    with stowing(tmp_path, api_keys={"vna": KEY_HASH}) as (client, spool):
        assert post(client, image).status_code == 401
        allowed = {"Authorization": "Bearer key"}
        assert post(client, image, "/..%2Fx", **allowed).status_code in (400, 404)
        assert post(client, image, "/1.2.x", **allowed).status_code == 400
        zipped = {"Content-Encoding": "gzip", **allowed}
        assert post(client, image, **zipped).status_code == 415
        assert post(client, image, **allowed).status_code == 200
        [entry] = spool.waiting()
        assert (entry.received.calling, entry.received.called) == ("vna", "")
        assert 'lazaret_dicom_instances_total{peer="vna",status="stored"} 1.0' in (
            client.get("/metrics").text
        )


def test_a_full_disk_asks_to_try_again(tmp_path: Path) -> None:
    image = body(write_image(tmp_path / "1.dcm").read_bytes())
    app = create_app(given_settings(tmp_path).model_copy(update={"spool_reserve_bytes": 2**60}))
    with TestClient(app, "http://127.0.0.1") as client:
        answer = post(client, image)
        assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)


def test_what_came_before_a_fault_is_kept(tmp_path: Path) -> None:
    image = write_image(tmp_path / "1.dcm").read_bytes()
    with stowing(tmp_path) as (client, spool):
        assert post(client, body(image, image)[: len(image) + 500]).status_code == 400
        assert len(list(spool.waiting())) == 1


@given(data=st.binary(max_size=300), cut=st.integers(0, 400), step=st.integers(1, 50))
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_parts_are_the_same_however_they_arrive(data: bytes, cut: int, step: int) -> None:
    content = body(data.replace(b"--B", b""), b"second")[: 400 + cut]
    held = 0

    def hold(count: int) -> None:
        nonlocal held
        held += count

    def parts(size: int) -> list[bytes] | str:
        found = []
        reader = Parts(b"B", 1000, hold)
        try:
            for start in range(0, len(content), size):
                found += [part.data for part in reader.feed(content[start : start + size])]
            reader.close()
        except MultipartProblem as problem:
            return str(problem)
        return found

    assert parts(step) == parts(len(content) or 1)
