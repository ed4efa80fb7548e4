"""A real archive that is down, comes back and goes again gets everything, and everything once."""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import RLELossless
from servers.orthanc import AE_TITLE, Orthanc
from servers.process import accepts, free_port, program, running
from test_emitted_objects import FINDING, image

from service.metrics import Metrics
from service.pacs.attributes import subject_of
from service.pacs.delivery import Delivery
from service.pacs.outbox import Item, Outbox, Parcel
from service.pacs.outbox_states import State
from service.pacs.peers import DicomwebPeer, DimsePeer, Peer
from service.pacs.routes import Delivery as Pace
from service.pacs.routes import Emitted
from service.pacs.senders import Outcome, Sent, Unreachable, sender_for
from service.pacs.structured_report import structured_report
from service.records import Records

QUICK = Pace(first_wait_seconds=0.1, longest_wait_seconds=0.5, give_up_seconds=120)


@pytest.fixture
def orthanc(tmp_path: Path) -> Orthanc:
    return Orthanc(tmp_path / "orthanc")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """One that stays up."""
    orthanc = Orthanc(tmp_path_factory.mktemp("archive") / "orthanc")
    with orthanc.up():
        yield orthanc


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    records = Records(f"sqlite:///{tmp_path}/records.sqlite3")
    records.open()
    yield Outbox(records.engine)
    records.close()


def dimse(orthanc: Orthanc) -> Peer:
    return DimsePeer(
        kind="dimse", ae_title=AE_TITLE, host="127.0.0.1", port=orthanc.port, timeout_seconds=5
    )


def dicomweb(orthanc: Orthanc) -> Peer:
    return DicomwebPeer(kind="dicomweb", url=orthanc.dicomweb, timeout_seconds=5)


def report(number: int) -> tuple[str, bytes]:
    source = image(SOPInstanceUID=f"1.2.3.{number}", StudyInstanceUID="1.2.3")
    made = structured_report(subject_of(source), FINDING)
    return made.sop_instance, made.file


def item(content: bytes, kind: str = "sr") -> Item:
    parcel = Parcel("archive", kind, "application/dicom", content)
    return Item(1, parcel, 1, datetime.now(UTC))


def test_an_audit_message_that_does_not_arrive_is_counted(box: Outbox) -> None:
    metrics = Metrics()
    delivery = Delivery(box, {}, QUICK, metrics)
    for outcome in (Outcome.LATER, Outcome.NEVER, Outcome.DELIVERED):
        delivery.settle(Sent(item(b"x", "audit"), outcome, "unreachable"))
    values = {
        sample.name: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name.startswith("lazaret_audit")
    }
    assert values["lazaret_audit_failures_total"] == 2
    assert values["lazaret_audit_last_timestamp_seconds"] > time.time() - 60


@contextmanager
def delivering(box: Outbox, peer: Peer) -> Iterator[Delivery]:
    delivery = Delivery(box, {"archive": peer}, QUICK, Metrics())
    delivery.start()
    try:
        yield delivery
    finally:
        delivery.close()


def wait_for(done: Callable[[], bool], seconds: float = 40) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize("kind", [dimse, dicomweb])
def test_an_archive_that_is_stopped_and_started_gets_everything_once(
    kind: Callable[[Orthanc], Peer], orthanc: Orthanc, box: Outbox
) -> None:
    uids = []

    def put(count: int) -> None:
        for _ in range(count):
            uid, content = report(len(uids))
            uids.append(uid)
            box.add([Parcel("archive", "sr", "application/dicom", content)], datetime.now(UTC))

    put(5)
    with delivering(box, kind(orthanc)):
        time.sleep(0.5)  # it is down: attempts fail
        assert sum(count.objects for count in box.counts()) == 5
        with orthanc.up():
            wait_for(lambda: not box.counts())
            put(20)
            wait_for(lambda: len(orthanc.instances()) > 6)
        put(5)  # stopped in the middle
        time.sleep(0.3)
        with orthanc.up():
            wait_for(lambda: not box.counts())
            assert orthanc.instances() == sorted(uids)
            assert orthanc.modalities() == ["SR"]


@pytest.mark.parametrize("kind", [dimse, dicomweb])
def test_what_was_sent_and_not_settled_is_there_once(
    kind: Callable[[Orthanc], Peer], archive: Orthanc
) -> None:
    uid, content = report(100 if kind is dimse else 101)
    sender = sender_for(kind(archive))
    for _ in range(2):  # as after a kill between the archive's answer and our note of it
        assert [sent.outcome for sent in sender.send([item(content)])] == [Outcome.DELIVERED]
    sender.close()
    assert archive.instances().count(uid) == 1
    assert pydicom.dcmread(io.BytesIO(archive.file(uid))) == pydicom.dcmread(io.BytesIO(content))


def test_a_peer_that_is_not_there_or_not_meant_is_unreachable(tmp_path: Path) -> None:
    _, content = report(1)
    for peer in (
        DimsePeer(kind="dimse", ae_title="X", host="127.0.0.1", port=free_port()),
        DicomwebPeer(kind="dicomweb", url=f"http://127.0.0.1:{free_port()}"),
        DicomwebPeer(
            kind="dicomweb", url="http://127.0.0.1:1", authorization_file=tmp_path / "none"
        ),
    ):
        with pytest.raises(Unreachable):
            list(sender_for(peer).send([item(content)]))


def test_bytes_that_are_no_dicom_are_refused_and_the_rest_goes(archive: Orthanc) -> None:
    uid, content = report(102)
    for kind in (dimse, dicomweb):
        sender = sender_for(kind(archive))
        sent = list(sender.send([item(b"nonsense"), item(content)]))
        outcomes = {s.item.parcel.content: s.outcome for s in sent}
        assert outcomes == {b"nonsense": Outcome.NEVER, content: Outcome.DELIVERED}
        sender.close()
    assert archive.instances().count(uid) == 1


@contextmanager
def storescp(tmp_path: Path, *options: str) -> Iterator[tuple[DimsePeer, Path]]:
    """dcmtk's receiver, which stores what it gets as it gets it."""
    stored = tmp_path / "stored"
    stored.mkdir()
    port = free_port()
    command = [program("storescp", "dcmtk"), "-aet", "DCMTK", "-od", str(stored), *options]
    with running(
        [*command, str(port)], tmp_path / "storescp.log", lambda: accepts(port),
        environment={"TCP_NODELAY": "1"},
    ):  # fmt: skip
        yield (
            DimsePeer(
                kind="dimse", ae_title="DCMTK", host="127.0.0.1", port=port, timeout_seconds=5
            ),
            stored,
        )


def compressed() -> bytes:
    ds = pydicom.dcmread(io.BytesIO(image()))
    ds.compress(RLELossless, generate_instance_uid=False)
    out = io.BytesIO()
    ds.save_as(out)
    return out.getvalue()


def test_originals_arrive_byte_for_byte_in_their_own_transfer_syntax(tmp_path: Path) -> None:
    native, packed = image(), compressed()
    with storescp(tmp_path, "+xr", "+B") as (peer, stored):
        for content in (native, packed):
            (sent,) = sender_for(peer).send([item(content, "image")])
            assert sent.outcome is Outcome.DELIVERED
            (path,) = stored.iterdir()
            here, there = (pydicom.dcmread(io.BytesIO(b)) for b in (content, path.read_bytes()))
            assert here == there
            assert here.file_meta.TransferSyntaxUID == there.file_meta.TransferSyntaxUID
            path.unlink()


def test_a_peer_of_implicit_only_gets_native_objects_converted_and_no_compressed_one(
    tmp_path: Path,
) -> None:
    native, packed = image(), compressed()
    with storescp(tmp_path, "+xi") as (peer, stored):
        sent = list(sender_for(peer).send([item(native, "image"), item(packed, "image")]))
        assert [s.outcome for s in sent] == [Outcome.DELIVERED, Outcome.NEVER]
        assert sent[1].problem == "context-rejected"
        (path,) = stored.iterdir()
        here, there = pydicom.dcmread(io.BytesIO(native)), pydicom.dcmread(path)
        assert here.PixelData == there.PixelData
        assert here.PatientName == there.PatientName


def test_emitted_kinds_are_the_metrics_labels() -> None:
    from service.metrics import labels

    assert {kind.value for kind in Emitted} <= set(labels.OBJECT.values)
    assert State.DEAD.value in labels.OUTBOX_STATE.values
