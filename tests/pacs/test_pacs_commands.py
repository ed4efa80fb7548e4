"""``lazaret pacs echo`` and ``send``, ``doctor``, and a node as a process."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from receiving import receiving, write_image, write_images
from servers.certificates import Authority
from servers.dcmtk import dcmtk
from servers.process import free_port
from typer.testing import CliRunner

from service.cli import app
from service.metrics import Metrics
from service.pacs.callers import Callers
from service.pacs.node import Node
from service.pacs.spool import Spool
from service.pacs.tls import server_context
from service.settings import Settings, SettingsProblem

ROOT = Path(__file__).parents[2]
DEMO_BUNDLE = ROOT / "models" / "zoo" / "phantom" / "bundle"


def lazaret(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "300"})
    return result.exit_code, result.output


def test_echo_says_what_is_wrong(tmp_path: Path) -> None:
    with receiving(tmp_path, callers=Callers({"LAZARET": "any"})) as node:
        here = f"127.0.0.1:{node.port}"
        assert lazaret("pacs", "echo", f"LAZARET@{here}") == (0, f"LAZARET@{here}: answers\n")
        code, said = lazaret("pacs", "echo", f"LAZARUS@{here}")
        assert (code, "not its AE title (called)" in said) == (1, True)
        code, said = lazaret("pacs", "echo", f"LAZARET@{here}", "--calling", "NOBODY")
        assert (code, "does not know our AE title" in said) == (1, True)
    code, said = lazaret("pacs", "echo", f"LAZARET@127.0.0.1:{free_port()}")
    assert (code, "nothing answers" in said) == (1, True)
    assert lazaret("pacs", "echo", "LAZARET@127.0.0.1:x")[0] == 2
    assert lazaret("pacs", "echo", "archive")[0] == 2


def test_send_files_as_they_are(tmp_path: Path) -> None:
    uids = write_images(tmp_path / "files", 3)
    files = sorted((tmp_path / "files").iterdir())
    (tmp_path / "text.dcm").write_text("no image")
    with receiving(tmp_path) as node:
        peer = f"LAZARET@127.0.0.1:{node.port}"
        code, said = lazaret("pacs", "send", peer, *files)
        assert (code, "3 of 3 stored" in said) == (0, True)
        assert node.uids == uids
        assert next(node.spool.waiting()).read()[-4096:] == files[0].read_bytes()[-4096:]
        code, said = lazaret(
            "pacs", "send", peer, tmp_path / "text.dcm", tmp_path / "none", files[0]
        )
        assert code == 1
        assert "text.dcm: not sent" in said
        assert "1 of 3 stored" in said


def test_what_was_set_aside_is_listed_and_can_wait_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAZARET_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setenv("LAZARET_SPOOL_RESERVE_BYTES", "0")
    assert lazaret("pacs", "spool")[0] == 2
    good, bad = (
        write_image(tmp_path / "1.dcm"),
        write_image(tmp_path / "2.dcm", StudyInstanceUID=""),
    )
    with receiving(tmp_path) as node:
        lazaret("pacs", "send", f"LAZARET@127.0.0.1:{node.port}", good, bad, "--calling", "CR1")
    code, said = lazaret("pacs", "spool")
    assert (code, "1 wait, 1 set aside" in said, "no-uid" in said) == (0, True, True)
    assert "CR1" in said
    assert lazaret("pacs", "spool", "--restore", "7")[0] == 2
    code, said = lazaret("pacs", "spool", "--restore", "all")
    assert "2 wait, 0 set aside" in said


def test_peers_of_the_table_over_tls_and_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "ca")
    server, ours = authority.issue("server"), authority.issue("ours")
    image = write_image(tmp_path / "image.dcm")
    tls = server_context(server.certificate, server.key, authority.certificate)
    with receiving(tmp_path, tls=tls, callers=Callers({"LAZARET": ours.fingerprint})) as node:
        archive = {
            "kind": "dimse", "ae_title": "LAZARET", "host": "localhost", "port": node.port,
            "tls": {"ca_file": str(authority.certificate), "key_file": str(ours.key),
                    "certificate_file": str(ours.certificate)},
        }  # fmt: skip
        plain = {**archive, "tls": None, "timeout_seconds": 3}
        web = {"kind": "dicomweb", "url": f"http://127.0.0.1:{free_port()}/dicom-web"}
        table = tmp_path / "pacs.yaml"
        peers = {"archive": archive, "plain": plain, "web": web}
        table.write_text(json.dumps({"peers": peers}))  # JSON is YAML
        assert lazaret("pacs", "echo", "archive", "--routes", table)[0] == 0
        assert lazaret("pacs", "send", "archive", image, "--routes", table)[0] == 0
        code, said = lazaret("pacs", "echo", "web", "--routes", table)
        assert (code, "it has: archive, plain" in said) == (2, True)
        monkeypatch.setenv("LAZARET_PACS_ROUTES", str(table))
        monkeypatch.setenv("LAZARET_DICOM_PORT", str(free_port()))
        monkeypatch.setenv("LAZARET_DATABASE", f"sqlite:///{tmp_path}/records.sqlite3")
        monkeypatch.setenv("LAZARET_SPOOL", str(tmp_path / "own-spool"))
        monkeypatch.setenv("LAZARET_SPOOL_RESERVE_BYTES", "0")
        monkeypatch.setenv("LAZARET_PORT", "0")
        code, said = lazaret("doctor")
    found = {
        word: line.split()[0]
        for line in said.splitlines()
        for word in ("archive", "plain", "web", "dicom")
        if f" {word} " in line
    }
    assert code == 1
    assert found == {"archive": "good", "plain": "fix", "web": "fix", "dicom": "good"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dicom_host": "0.0.0.0"}, "dicom_callers"),
        ({"anonymous": "never"}, "dicom_callers"),
        ({"dicom_tls_clients": "ca.pem"}, "dicom_tls_clients"),
        ({"dicom_tls_certificate": "none.pem"}, "none.pem"),
        ({"dicom_callers": {"CR1": "ab" * 32}}, "nobody can show one"),
        ({"spool": "/proc/spool"}, "spool"),
    ],
)
def test_what_must_not_listen_is_a_sentence(
    tmp_path: Path, settings: dict[str, object], words: str
) -> None:
    given = {"spool": tmp_path / "spool", "dicom_port": 0, "spool_reserve_bytes": 0, **settings}
    with pytest.raises(SettingsProblem, match=words):
        Node(Settings.load(**given), Metrics())


def test_a_taken_port_is_a_sentence(tmp_path: Path) -> None:
    with receiving(tmp_path) as node:
        settings = Settings(spool=tmp_path / "2", dicom_port=node.port, spool_reserve_bytes=0)
        other = Node(settings, Metrics())
        with pytest.raises(SettingsProblem, match=str(node.port)):
            other.start()
        other.close()


@contextmanager
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``lazaret serve --dicom-port 0`` and its DICOM port."""
    log = tmp_path / "log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LAZARET_")}
    environment |= {
        "LAZARET_PORT": "0",
        "LAZARET_DATABASE": f"sqlite:///{tmp_path}/records.sqlite3",
        "LAZARET_SPOOL": str(tmp_path / "spool"),
        "LAZARET_SPOOL_RESERVE_BYTES": "0",
    }
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", "--bundle", str(DEMO_BUNDLE),
             "--dicom-port", "0"],
            stderr=file, text=True, env=environment, cwd=ROOT,
        )  # fmt: skip
    try:
        until, port = time.monotonic() + 60, 0
        while not port:
            assert time.monotonic() < until, log.read_text()
            assert process.poll() is None, log.read_text()
            for line in log.read_text().splitlines():
                entry = json.loads(line)
                if entry["event"] == "listening for dicom":
                    port = int(entry["port"])
            time.sleep(0.05)
        yield process, port
    finally:
        process.kill()
        process.wait()


def test_a_served_node_takes_an_image_and_logs_no_identity(tmp_path: Path) -> None:
    image = write_image(tmp_path / "image.dcm", uid="1.2.826.77.1")
    wrong = write_image(tmp_path / "wrong.dcm", uid="1.2.826.77.2", StudyInstanceUID=None)
    with served(tmp_path) as (process, port):
        for path in (image, wrong):
            dcmtk("storescu", "-aet", "CR_ROOM_7", "-aec", "LAZARET", "127.0.0.1", port, path)
        dcmtk("echoscu", "-aet", "CR_ROOM_7", "-aec", "SOMEONE_ELSE", "127.0.0.1", port)
        spool = Spool(tmp_path / "spool", reserve_bytes=0)
        kept = [*spool.waiting(), *spool.set_aside_entries()]
        spool.close()
        process.terminate()
        assert process.wait(30) == 0
    assert len(kept) >= 1
    log = (tmp_path / "log").read_text()
    for secret in ("1.2.826.77", "CR_ROOM_7", "SOMEONE_ELSE", "Nobody", "1.2.3.1"):
        assert secret not in log
