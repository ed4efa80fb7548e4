"""The spool loses nothing that it said it kept, whenever the process dies, and believes no name."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from service.pacs.part10 import NotPart10, head, take_apart
from service.pacs.received import Protocol, Received, is_uid
from service.pacs.spool import Spool
from service.pacs.spool_entry import Reuse, SpoolFull, SpoolProblem

EXPLICIT, IMPLICIT, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.5"
RECEIVED = Received(
    protocol=Protocol.DIMSE,
    calling="MODALITY",
    called="LAZARET",
    address="127.0.0.1",
    association="a1",
    at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    transfer_syntax=EXPLICIT,
    sop_class="1.2.840.10008.5.1.4.1.1.7",
    sop_instance="1.2.3.4",
    certificate="ab" * 32,
)


def dataset(pixels: bytes, name: bytes = b"A^B ") -> bytes:
    return (
        b"\x10\x00\x10\x00PN" + len(name).to_bytes(2, "little") + name
        + b"\xe0\x7f\x10\x00OW\0\0" + len(pixels).to_bytes(4, "little") + pixels
    )  # fmt: skip


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", reserve_bytes=0)


def test_what_was_kept_is_read_back_with_its_origin(spool: Spool) -> None:
    added = spool.add(dataset(b"1234"), RECEIVED)
    assert added.new
    [entry] = spool.waiting()
    assert entry == added.entry
    assert entry.received == RECEIVED
    parts = take_apart(entry.read())
    assert (parts.transfer_syntax, bytes(parts.dataset)) == (EXPLICIT, dataset(b"1234"))
    # and any DICOM tool reads the file
    read = pydicom.dcmread(BytesIO(entry.read()))
    assert read.file_meta.MediaStorageSOPInstanceUID == "1.2.3.4"
    assert read.PixelData == b"1234"


def test_order_of_arrival_outlives_a_restart(spool: Spool, tmp_path: Path) -> None:
    for number in range(20):
        spool.add(dataset(b"1234"), replace(RECEIVED, sop_instance=f"1.2.{number}"))
    spool.close()
    again = Spool(tmp_path / "spool", reserve_bytes=0)
    again.add(dataset(b"1234"), replace(RECEIVED, sop_instance="1.2.20"))
    entries = list(again.waiting())
    assert [e.received.sop_instance for e in entries] == [f"1.2.{n}" for n in range(21)]
    assert [e.sequence for e in again.waiting(after=entries[17].sequence)] == [
        e.sequence for e in entries[18:]
    ]


def test_what_is_done_is_gone_and_not_judged_twice(spool: Spool, tmp_path: Path) -> None:
    entry = spool.add(dataset(b"1234"), RECEIVED).entry
    assert not spool.add(dataset(b"1234"), RECEIVED).new  # the sender missed our answer
    assert len(list(spool.waiting())) == 1
    spool.done(entry)
    assert not list(spool.waiting())
    assert not entry.path.exists()
    assert not spool.add(dataset(b"1234"), RECEIVED).new
    spool.close()
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    assert not spool.add(dataset(b"1234"), RECEIVED).new
    assert not list(spool.waiting())


@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize(
    ("second", "syntax", "reuse", "alarms"),
    [
        (dataset(b"9999"), EXPLICIT, Reuse.OTHER_PIXELS, 1),
        (dataset(b"1234", b"CORRECTED^X "), EXPLICIT, Reuse.SAME_PIXELS, 0),
        (dataset(b"9999"), RLE, Reuse.OTHER_ENCODING, 1),
    ],
)
def test_a_uid_that_returns_with_other_pixels_raises_an_alarm(
    tmp_path: Path, judged: bool, second: bytes, syntax: str, reuse: Reuse, alarms: int
) -> None:
    heard = []
    spool = Spool(tmp_path / "spool", reserve_bytes=0, alarm=heard.append)
    first = spool.add(dataset(b"1234"), RECEIVED)
    if judged:
        spool.done(first.entry)
    again = spool.add(second, replace(RECEIVED, transfer_syntax=syntax))
    assert again.new
    assert again.entry.reuse is reuse
    assert heard == [again.entry] * alarms
    assert [entry.reuse for entry in spool.waiting()][-1] is reuse


def test_the_other_byte_order_of_a_header_is_no_alarm(spool: Spool) -> None:
    spool.add(dataset(b"1234"), RECEIVED)
    implicit = b"\x10\x00\x10\x00\4\0\0\0A^B " + b"\xe0\x7f\x10\x00\4\0\0\0" + b"1234"
    again = spool.add(implicit, replace(RECEIVED, transfer_syntax=IMPLICIT))
    assert again.entry.reuse is Reuse.SAME_PIXELS


def test_a_nearly_full_disk_refuses_and_keeps_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", reserve_bytes=2**60)
    with pytest.raises(SpoolFull):
        spool.add(dataset(b"1234"), RECEIVED)
    assert spool.held().waiting == 0
    assert spool.held().free_bytes < 0
    assert not list((tmp_path / "spool").glob("*/*.dcm"))


def test_set_aside_is_kept_with_its_reason_and_can_wait_again(spool: Spool, tmp_path: Path) -> None:
    spool.set_aside(spool.add(dataset(b"1234"), RECEIVED).entry, "malformed")
    spool.add(dataset(b"5678"), replace(RECEIVED, sop_instance="1.2.9"), aside="not-dicom")
    assert not list(spool.waiting())
    spool.close()
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    entries = list(spool.set_aside_entries())
    assert [entry.reason for entry in entries] == ["malformed", "not-dicom"]
    assert (spool.held().waiting, spool.held().aside) == (0, 2)
    spool.restore(entries[0])
    assert [entry.key for entry in spool.waiting()] == [entries[0].key]


def test_no_name_from_outside_becomes_a_path(spool: Spool, tmp_path: Path) -> None:
    spool.add(dataset(b"1234"), replace(RECEIVED, sop_instance="../../1", calling="../x"))
    inside = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert all(path.is_relative_to(tmp_path / "spool") for path in inside)
    assert not any("1.2.3.4" in path.name for path in inside)
    assert not is_uid("../../1")


def test_damage_on_the_disk_is_told_not_judged(spool: Spool) -> None:
    entry = spool.add(dataset(b"1234"), RECEIVED).entry
    entry.path.write_bytes(entry.path.read_bytes()[:-1] + b"5")
    with pytest.raises(SpoolProblem, match="damaged"):
        entry.read()


def test_files_without_an_index_and_an_index_without_files(spool: Spool, tmp_path: Path) -> None:
    for number in range(3):
        spool.add(dataset(b"1234"), replace(RECEIVED, sop_instance=f"1.2.{number}"))
    lost = next(spool.waiting())
    spool.close()
    lost.path.unlink()
    for name in ("index.sqlite3", "index.sqlite3-wal", "index.sqlite3-shm"):
        (tmp_path / "spool" / name).unlink(missing_ok=True)
    (tmp_path / "spool" / "files" / "torn.dcm").write_bytes(b"half")
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    # in no order: files of one tick of the clock have none but the index's
    assert {e.received.sop_instance for e in spool.waiting()} == {"1.2.1", "1.2.2"}
    assert not (tmp_path / "spool" / "files" / "torn.dcm").exists()
    gone = next(spool.waiting())
    gone.path.unlink()
    again = replace(RECEIVED, sop_instance=gone.received.sop_instance)
    assert spool.add(dataset(b"1234"), again).new


def test_after_a_power_cut_only_whole_files_wait(spool: Spool, tmp_path: Path) -> None:
    whole = spool.add(dataset(b"1234"), RECEIVED).entry
    torn = spool.add(dataset(b"1234"), replace(RECEIVED, sop_instance="1.2.9")).entry
    spool._index.remember("boot", "another")
    spool.close()
    torn.path.write_bytes(bytes(torn.size))
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    assert [entry.key for entry in spool.waiting()] == [whole.key]
    assert spool.add(dataset(b"1234"), replace(RECEIVED, sop_instance="1.2.9")).new


def test_the_same_instance_on_many_associations_at_once(spool: Spool) -> None:
    added = []
    threads = [
        threading.Thread(target=lambda: added.append(spool.add(dataset(b"1234"), RECEIVED)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one.new for one in added) == 1
    assert len(list(spool.waiting())) == 1


def test_a_waiter_is_woken(spool: Spool) -> None:
    assert not spool.wait(0, 0.01)
    timer = threading.Timer(0.05, lambda: spool.add(dataset(b"1234"), RECEIVED))
    timer.start()
    assert spool.wait(0, 5)
    timer.join()


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, 'tests/pacs')\n"
        "from test_spool import *\n"
        f"spool = Spool(Path({str(tmp_path / 'spool')!r}), reserve_bytes=0)\n"
        "start = len(list(spool.waiting()))\n"
        "for n in range(start, start + 100000):\n"
        "    spool.add(dataset(bytes(50_000)), replace(RECEIVED, sop_instance=f'1.2.{n}'))\n"
        "    print(n, flush=True)\n"
    )
    root = Path(__file__).parents[2]
    acknowledged = -1
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root
        ) as process:
            assert process.stdout is not None
            for _ in range(25):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            lines = process.stdout.read().split()
        acknowledged = max(acknowledged, *(int(line) for line in lines), 0)
        spool = Spool(tmp_path / "spool", reserve_bytes=0)
        uids = [entry.received.sop_instance for entry in spool.waiting()]
        assert len(uids) == len(set(uids))
        assert {f"1.2.{n}" for n in range(acknowledged + 1)} <= set(uids)
        assert all(entry.read() for entry in spool.waiting())
        spool.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(132),
        bytes(128) + b"DICM",
        head(RECEIVED)[:200],
        bytes(128) + b"DICM\x02\0\x10\0OB\0\0\xff\xff\xff\xff",
        bytes(128) + b"DICM" + b"\x02\0\x10\0UI\2\01\0" * 2,
        bytes(128) + b"DICM\x02\0\x10\0UI\4\0../x",
        os.urandom(400),
    ],
)
def test_what_is_no_dicom_file_is_a_sentence(data: bytes) -> None:
    with pytest.raises(NotPart10):
        take_apart(data)
