"""Real peers on loopback: dcmtk sends, Lazaret judges, Orthanc gets what was found, once each,
whatever is killed or stopped between."""

import io
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.uid import generate_uid
from served_node import DEMO, ROOT, ServedNode, served_node
from servers.certificates import Authority
from servers.dcmtk import dcmtk
from servers.orthanc import AE_TITLE, Orthanc
from servers.process import free_port

CLEAN, DEGRADED, ATTACKED = (
    DEMO / f"{name}.dcm" for name in ("clean-2", "degraded-2", "attacked-2")
)
AE_TITLE_OF_GUARD = "LAZARET"


@pytest.fixture
def orthanc(tmp_path: Path) -> Orthanc:
    return Orthanc(tmp_path / "orthanc")


def routes(orthanc: Orthanc, **default: Any) -> dict[str, Any]:
    return {
        "peers": {
            "archive": {
                "kind": "dimse", "ae_title": AE_TITLE, "host": "127.0.0.1", "port": orthanc.port,
                "timeout_seconds": 5,
            },
            "web": {"kind": "dicomweb", "url": orthanc.dicomweb, "timeout_seconds": 5},
        },
        "default": {"destinations": ["archive"], "original": "forward", **default},
        "delivery": {
            "first_wait_seconds": 0.2, "longest_wait_seconds": 1, "lease_seconds": 3,
        },
    }  # fmt: skip


def wait_for(done: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.2)


def send(node: ServedNode, *words: str | Path, program: str = "storescu") -> None:
    options = [word for word in words if not str(word).endswith(".dcm")]
    files = [word for word in words if str(word).endswith(".dcm")]
    to = ("-aet", "ROOM1", "-aec", "LAZARET", "127.0.0.1", node.port)
    sent = dcmtk(program, *options, *to, *files)
    assert sent.returncode == 0, sent.stdout


def copies(folder: Path, source: Path, count: int) -> list[Path]:
    """The same image under other UIDs."""
    folder.mkdir()
    made = []
    for number in range(count):
        ds = pydicom.dcmread(source)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.InstanceNumber = number + 1
        made.append(folder / f"{number}.dcm")
        ds.save_as(made[-1])
    return made


def outbox_states(database: Path) -> dict[str, int]:
    with sqlite3.connect(database) as connection:
        return dict(connection.execute("SELECT state, count(*) FROM outbox GROUP BY state"))


def all_delivered(database: Path, count: int) -> Callable[[], bool]:
    return lambda: outbox_states(database) == {"delivered": count}


def test_an_attacked_image_is_marked_in_the_archive_beside_itself(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    """All of it over TLS with certificates on both sides."""
    authority = Authority(tmp_path / "ca")
    ours, theirs, archive = (authority.issue(name) for name in ("guard", "modality", "archive"))
    orthanc.settings = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(archive.certificate),
        "DicomTlsPrivateKey": str(archive.key),
        "DicomTlsTrustedCertificates": str(authority.certificate),
    }
    table = routes(orthanc, emit={"accept": ["sr"], "reject": ["sr", "gsps", "kos", "sc"]})
    table["peers"]["archive"]["tls"] = {
        "ca_file": str(authority.certificate),
        "certificate_file": str(ours.certificate),
        "key_file": str(ours.key),
    }
    environment = {
        "LAZARET_DICOM_TLS_CERTIFICATE": str(ours.certificate),
        "LAZARET_DICOM_TLS_KEY": str(ours.key),
        "LAZARET_DICOM_TLS_CLIENTS": str(authority.certificate),
    }
    tls = ("+tls", theirs.key, theirs.certificate, "+cf", authority.certificate)
    with orthanc.up(), served_node(tmp_path, table, **environment) as node:
        send(node, *tls, ATTACKED)
        wait_for(all_delivered(tmp_path / "records.sqlite3", 5))
        study = pydicom.dcmread(ATTACKED).StudyInstanceUID
        assert orthanc.modalities(StudyInstanceUID=study) == ["DX", "KO", "OT", "PR", "SR"]
        send(node, *tls, CLEAN, DEGRADED)
        wait_for(all_delivered(tmp_path / "records.sqlite3", 5 + 2 + 2))
        assert len(orthanc.instances()) == 9
        for path in (ATTACKED, CLEAN, DEGRADED):  # what was sent on is what came
            here = pydicom.dcmread(path)
            there = pydicom.dcmread(io.BytesIO(orthanc.file(here.SOPInstanceUID)))
            assert here.PixelData == there.PixelData
        (case,) = httpx.get(f"{node.url}/cases").json()
        assert case["verdict"] == "reject"
        metrics = httpx.get(f"{node.url}/metrics").text
        labels = 'object="sr",outcome="delivered",peer="archive"'
        assert f"lazaret_outbox_deliveries_total{{{labels}}} 3" in metrics
        log = node.log.read_text()
        for secret in ("2.25.", "PHANTOM", "ROOM1"):
            assert secret not in log
            assert secret not in metrics


def test_killed_twice_everything_is_judged_and_delivered_once(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    files = copies(tmp_path / "files", ATTACKED, 6)
    table, database = routes(orthanc), tmp_path / "records.sqlite3"
    with served_node(tmp_path, table) as node:  # the archive is down
        send(node, *files[:3], program="dcmsend")
        wait_for(lambda: sum(outbox_states(database).values()) >= 4)
    # killed: some are judged, none is delivered
    with orthanc.up():
        with served_node(tmp_path, table) as node:
            send(node, *files[3:])
            wait_for(lambda: outbox_states(database).get("delivered", 0) >= 2)
        # killed: some are delivered, one perhaps without our knowing
        with served_node(tmp_path, table):
            wait_for(all_delivered(database, len(files) * 4))
            uids = orthanc.instances()
    assert len(uids) == len(set(uids)) == len(files) * 4
    assert {str(pydicom.dcmread(path).SOPInstanceUID) for path in files} <= set(uids)
    with sqlite3.connect(database) as connection:
        (judged,) = connection.execute("SELECT count(*) FROM requests").fetchone()
        (held,) = connection.execute("SELECT count(*) FROM cases").fetchone()
    assert judged == held == len(files)


def test_orthanc_sends_its_images_by_our_script_and_gets_verdicts_back(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    port = free_port()
    script = ROOT / "deploy" / "orthanc" / "route_to_lazaret.lua"
    orthanc.settings = {
        "DicomModalities": {"lazaret": [AE_TITLE_OF_GUARD, "127.0.0.1", port]},
        "LuaScripts": [str(script)],
    }
    table = routes(orthanc, original="judge-only", emit={"reject": ["sr", "gsps", "kos", "sc"]})
    with orthanc.up(), served_node(tmp_path, table, LAZARET_DICOM_PORT=str(port)):
        stored = dcmtk(
            "storescu", "-aet", "ROOM1", "-aec", AE_TITLE, "127.0.0.1", orthanc.port, ATTACKED
        )
        assert stored.returncode == 0, stored.stdout
        wait_for(all_delivered(tmp_path / "records.sqlite3", 4))
        time.sleep(2)  # nothing goes round
        assert orthanc.modalities() == ["DX", "KO", "OT", "PR", "SR"]
        assert outbox_states(tmp_path / "records.sqlite3") == {"delivered": 4}


def test_beside_several_http_workers_one_receives_and_judges(tmp_path: Path) -> None:
    files = copies(tmp_path / "files", ATTACKED, 6)
    database = tmp_path / "records.sqlite3"
    workers = {"LAZARET_WORKERS": "2", "LAZARET_DICOMWEB": "true"}
    with served_node(tmp_path, {}, **workers) as node:
        wait_for(lambda: httpx.get(f"{node.url}/readyz").status_code == 200)
        send(node, *files[:3])
        for file in files[3:]:  # a connection each: any worker may get it
            body = (
                b"--x\r\nContent-Type: application/dicom\r\n\r\n"
                + file.read_bytes()
                + b"\r\n--x--\r\n"
            )
            kind = 'multipart/related; type="application/dicom"; boundary=x'
            stored = httpx.post(
                f"{node.url}/dicomweb/studies", content=body, headers={"Content-Type": kind}
            )
            assert stored.status_code == 200, stored.text

        def judged() -> bool:
            with sqlite3.connect(database) as connection:
                return connection.execute("SELECT count(*) FROM instances").fetchone() == (6,)

        wait_for(judged, 120)
        with sqlite3.connect(database) as connection:
            assert connection.execute("SELECT count(*) FROM requests").fetchone() == (6,)
        listening = [line for line in node.log.read_text().splitlines() if "for dicom" in line]
        assert len(listening) == 1
