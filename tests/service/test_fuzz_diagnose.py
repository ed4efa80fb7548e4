"""Whatever arrives, a typed answer leaves: a verdict or a 4xx, never a 5xx, never a hang."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import serving
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tiny_bundle import ACCEPTED, flat

from service.settings import Settings

EASY = hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SAMPLES = [flat(ACCEPTED), flat(ACCEPTED, form="JPEG")]
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n'
    b"Content-Type: image/png\r\n\r\n" + flat(ACCEPTED) + b"\r\n--b--\r\n"
)
KINDS = ["", "image/png", "image/jpeg", "application/dicom", "text/html", "image/png; q=\x00"]
FORM_KINDS = ["multipart/form-data; boundary=b", 'multipart/form-data; boundary="', "multipart/;="]
HEADERS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)


@pytest.fixture(scope="module")
def client(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    database = tmp_path_factory.mktemp("fuzz") / "records.sqlite3"
    settings = Settings(bundles=(bundle,), database=f"sqlite:///{database}")
    with serving(settings) as client:
        yield client


@st.composite
def mangled(draw: st.DrawFn, whole: bytes) -> bytes:
    """A good file, cut, with some bytes replaced or inserted."""
    data = bytearray(whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole)
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(data)


def answered(client: TestClient, body: bytes, kind: str, query: str = "") -> None:
    response = client.post(
        "/diagnose",
        content=body,
        params={"model": query} if query else {},
        headers={"Content-Type": kind.encode("latin-1")},
    )
    assert response.status_code < 500, response.text
    if response.status_code == 200:
        assert response.json()["verdict"] in ("accept", "flag", "reject")
    else:
        assert response.headers["Content-Type"] == "application/problem+json"


@EASY
@given(body=st.one_of(st.binary(max_size=300), *map(mangled, SAMPLES)), kind=st.sampled_from(KINDS))
def test_any_body(client: TestClient, body: bytes, kind: str) -> None:
    answered(client, body, kind)


@EASY
@given(body=mangled(FORM), kind=st.sampled_from(FORM_KINDS))
def test_any_form(client: TestClient, body: bytes, kind: str) -> None:
    answered(client, body, kind)


@EASY
@given(kind=HEADERS, query=st.text(max_size=20), request_id=HEADERS)
def test_any_header_and_query(client: TestClient, kind: str, query: str, request_id: str) -> None:
    answered(client, SAMPLES[0], kind, query)
    response = client.post("/diagnose", headers={"X-Request-ID": request_id})
    assert response.status_code == 400
