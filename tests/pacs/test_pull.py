"""``lazaret pacs pull`` brings studies out of a real archive, goes on where it was cut off, and
believes no answer."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from receiving import write_image, write_images
from servers.dcmtk import dcmtk
from servers.orthanc import AE_TITLE, Orthanc
from typer.testing import CliRunner

from service.cli import app
from service.metrics import Metrics
from service.pacs import pull as pulling
from service.pacs.pull import Archive, PullProblem, pull, query_of
from service.pacs.spool import Spool
from service.pacs.tally import Tally


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Two studies, five instances of CR and one of another patient."""
    folder = tmp_path_factory.mktemp("orthanc")
    write_images(folder / "files", 5)
    write_image(folder / "files" / "other.dcm", "1.2.9.1", StudyInstanceUID="1.2.9", PatientID="P9")
    orthanc = Orthanc(folder / "server")
    with orthanc.up():
        sent = dcmtk(
            "storescu", "-aec", AE_TITLE, "+sd", "127.0.0.1", orthanc.port, folder / "files"
        )
        assert sent.returncode == 0, sent.stdout
        yield orthanc


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", reserve_bytes=0)


def command(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    environment = {
        "LAZARET_SPOOL": str(tmp_path / "spool"),
        "LAZARET_SPOOL_RESERVE_BYTES": "0",
        "COLUMNS": "200",
    }
    result = CliRunner().invoke(app, ["pacs", "pull", *arguments], env=environment)
    return result.exit_code, result.output


def test_studies_come_into_the_spool_once(tmp_path: Path, archive: Orthanc, spool: Spool) -> None:
    code, said = command(tmp_path, archive.dicomweb, "--query", "PatientID=P1")
    assert (code, "1 studies, 5 instances: 5 fetched, 0 known, 0 not kept" in said) == (0, True)
    entries = list(spool.waiting())
    assert sorted(entry.received.sop_instance for entry in entries) == [
        f"1.2.3.4.{n}" for n in range(5)
    ]
    assert {entry.received.protocol for entry in entries} == {"pull"}
    spool.done(entries[0])
    code, said = command(tmp_path, archive.dicomweb)
    assert "2 studies, 6 instances: 1 fetched, 5 known" in said
    code, said = command(tmp_path, archive.dicomweb, "--again", "--limit", "1")
    assert "1 studies" in said
    assert len(list(spool.waiting())) == 5
    assert len(list(spool.waiting())) == len({entry.key for entry in spool.waiting()})


def test_a_named_peer_and_wrong_names(tmp_path: Path, archive: Orthanc) -> None:
    table = tmp_path / "pacs.yaml"
    table.write_text(
        json.dumps({"peers": {"archive": {"kind": "dicomweb", "url": archive.dicomweb}}})
    )
    code, _ = command(tmp_path, "archive", "--routes", str(table), "--query", "PatientID=NOBODY")
    assert code == 0
    code, said = command(tmp_path, "other", "--routes", str(table))
    assert (code, "there are: archive" in said) == (2, True)
    code, said = command(tmp_path, "archive", "--routes", str(table), "--query", "x")
    assert (code, "write a DICOM keyword" in said) == (2, True)
    code, said = command(tmp_path, f"{archive.url}/nowhere")
    assert (code, "answers 404" in said) == (2, True)


def test_only_keywords_and_tags_are_asked_for() -> None:
    assert query_of(["StudyDate=20260101-", "00100020=P=1"]) == {
        "StudyDate": "20260101-",
        "00100020": "P=1",
    }
    for pair in ("", "=x", "a b=c", "limit=3", "Patient&ID=3"):
        with pytest.raises(PullProblem):
            query_of([pair])


Answer = Callable[[httpx.Request], httpx.Response]


def lying(answer: Answer) -> Archive:
    """An archive that answers what a test wants."""
    client = httpx.Client(
        transport=httpx.MockTransport(answer), base_url="http://archive/dicom-web"
    )
    return Archive(client, instance_bytes=100_000)


def uid(tag: str, value: object) -> dict[str, object]:
    return {tag: {"vr": "UI", "Value": [value]}}


def listing(**fetched: httpx.Response) -> Answer:
    """One study with one instance."""

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/dicom-web")
        if path == "/studies":
            return httpx.Response(200, json=[uid("0020000D", "1.2.3")])
        if path.endswith("/instances"):
            return httpx.Response(200, json=[uid("0020000E", "1.2.4") | uid("00080018", "1.2.5")])
        return fetched["instance"]

    return answer


RELATED = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=B'}


@pytest.mark.parametrize(
    ("instance", "words"),
    [
        (httpx.Response(404), "404"),
        (httpx.Response(302, headers={"Location": "http://elsewhere/"}), "302"),
        (httpx.Response(200, content=b"x"), "another form"),
        (httpx.Response(200, content=b"--B\r\n\r\nx", headers=RELATED), "cut short"),
        (httpx.Response(200, content=b"--B\r\n\r\nx\r\n--B--", headers=RELATED), "no DICOM file"),
        (httpx.Response(200, content=b"--B--", headers=RELATED), ""),
        (
            httpx.Response(200, content=b"--B\r\n\r\n" + bytes(200_000), headers=RELATED),
            "malformed|larger",
        ),
    ],
)
def test_an_instance_that_is_not_one_is_told_and_not_kept(
    spool: Spool, instance: httpx.Response, words: str
) -> None:
    told: list[str] = []
    archive = lying(listing(instance=instance))
    state = pull(archive, "a", {}, spool, Tally(Metrics()), address="a", failed=told.append)
    assert (state.found, state.kept, state.failed) == (1, 0, 1)
    assert any(word in told[0] for word in words.split("|"))
    assert not list(spool.waiting())


def test_another_instance_than_asked_for_is_set_aside(tmp_path: Path, spool: Spool) -> None:
    other = write_image(tmp_path / "other.dcm", "1.2.77", StudyInstanceUID="1.2.3").read_bytes()
    content = b"--B\r\nContent-Type: application/dicom\r\n\r\n" + other + b"\r\n--B--"
    archive = lying(listing(instance=httpx.Response(200, content=content, headers=RELATED)))
    state = pull(archive, "a", {}, spool, Tally(Metrics()), address="a")
    assert state.failed == 1
    assert [entry.reason for entry in spool.set_aside_entries()] == ["other-instance"]


@pytest.mark.parametrize(
    "page",
    [
        b"no json", b"{}", b"[1]", b"[" * 100_000, b'[{"0020000D": {"Value": ["../../x"]}}]',
        b'[{"0020000D": {"Value": []}}]', b'[{"0020000D": 1}]',
    ],
)  # fmt: skip
def test_a_list_that_is_none_ends_the_pull_with_a_sentence(spool: Spool, page: bytes) -> None:
    archive = lying(lambda _: httpx.Response(200, content=page))
    with pytest.raises(PullProblem, match="archive"):
        pull(archive, "a", {}, spool, Tally(Metrics()), address="a")


def test_an_archive_without_offsets_does_not_go_on_for_ever(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "PAGE", 1)
    found = list(lying(listing(instance=httpx.Response(404))).studies({}, None))
    assert found == ["1.2.3"]


def test_a_stumbling_archive_is_asked_again(
    tmp_path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "FIRST_WAIT_SECONDS", 0.01)
    image = write_image(tmp_path / "i.dcm", "1.2.5").read_bytes()
    content = b"--B\r\n\r\n" + image + b"\r\n--B--"
    asked = 0
    steady = listing(instance=httpx.Response(200, content=content, headers=RELATED))

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        if asked % 2:
            raise httpx.ConnectError("down") if asked % 4 == 1 else httpx.ReadTimeout("slow")
        return httpx.Response(503) if asked % 4 == 0 and asked < 8 else steady(request)

    state = pull(lying(answer), "a", {}, spool, Tally(Metrics()), address="a")
    assert (state.kept, state.failed) == (1, 0)
