"""What a PACS administrator's tools see of the Storage SCP, and what breaks it: nothing."""

import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import EncapsulatedPDFStorage, ImplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom import AE
from pynetdicom.events import Event
from receiving import Receiving, receiving, write_image, write_images
from servers.certificates import Authority
from servers.dcmtk import dcmtk

from service.metrics import Metrics
from service.metrics import catalogue as c
from service.pacs.callers import Callers
from service.pacs.link_limits import LinkLimits
from service.pacs.receiver import Receiver
from service.pacs.spool import Spool
from service.pacs.tally import Tally
from service.pacs.tls import expiry, server_context
from service.settings import SettingsProblem

ROOT = Path(__file__).parents[2]
STORED = "lazaret_dicom_instances_total"
REFUSED = "lazaret_dicom_rejections_total"


def storescu(receiving: Receiving, *arguments: str | Path, called: str = "LAZARET") -> str:
    return dcmtk(
        "storescu", "-v", "-aec", called, *arguments[:-1], "127.0.0.1", receiving.port,
        *arguments[-1:],
    ).stdout  # fmt: skip


def alive(receiving: Receiving) -> bool:
    return dcmtk("echoscu", "-aec", "LAZARET", "127.0.0.1", receiving.port).returncode == 0


def eventually(condition: object, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]  # a callable
        assert time.monotonic() < until
        time.sleep(0.02)


def test_echo_and_store_byte_for_byte(tmp_path: Path) -> None:
    image = write_image(tmp_path / "image.dcm")
    with receiving(tmp_path) as node:
        assert alive(node)
        assert "Received Store Response (Success)" in storescu(node, "-aet", "CR1", image)
        [entry] = node.spool.waiting()
        received = entry.received
        assert (received.calling, received.called, received.address) == (
            "CR1", "LAZARET", "127.0.0.1",
        )  # fmt: skip
        assert (received.study, received.series, received.modality) == ("1.2.3", "1.2.3.1", "CR")
        assert received.certificate is None
        sent, kept = pydicom.dcmread(image), pydicom.dcmread(entry.path)
        assert kept.PixelData == sent.PixelData
        assert kept == sent
        assert node.counted(STORED, peer="other", status="stored") == 1
        assert "CR1" not in node.page  # a title from the wire is no label


def test_dcmsend_negotiates_what_is_offered(tmp_path: Path) -> None:
    uids = write_images(tmp_path / "files", 3)
    files = sorted((tmp_path / "files").iterdir())
    with receiving(tmp_path) as node:
        found = dcmtk("dcmsend", "-v", "-aec", "LAZARET", "127.0.0.1", node.port, *files)
        assert found.returncode == 0, found.stdout
        assert node.uids == uids


@pytest.mark.parametrize(
    ("calling", "called", "reason", "counted"),
    [
        ("STRANGER", "LAZARET", "Calling AE Title Not Recognized", "calling_ae"),
        ("CR1", "LAZARUS", "Called AE Title Not Recognized", "called_ae"),
    ],
)
def test_an_unknown_title_is_told_which(
    tmp_path: Path, calling: str, called: str, reason: str, counted: str
) -> None:
    image = write_image(tmp_path / "image.dcm")
    with receiving(tmp_path, callers=Callers({"CR1": "any"})) as node:
        said = storescu(node, "-aet", calling, image, called=called)
        assert "Rejected Permanent" in said
        assert reason in said
        assert node.counted(REFUSED, reason=counted) == 1
        assert "(Success)" in storescu(node, "-aet", "CR1", image)
        assert node.counted(STORED, peer="CR1", status="stored") == 1
        assert "STRANGER" not in node.page


def test_tls_with_certificates_on_record(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "other")
    server, modality, spy = ours.issue("server"), ours.issue("modality"), ours.issue("spy")
    stranger = theirs.issue("stranger")
    image = write_image(tmp_path / "image.dcm")
    callers = Callers({"CR1": modality.fingerprint, "CR2": "any"})
    tls = server_context(server.certificate, server.key, ours.certificate)
    with receiving(tmp_path, callers=callers, tls=tls) as node:

        def with_(identity: object, title: str = "CR1") -> str:
            keys = ("+tls", identity.key, identity.certificate)  # type: ignore[attr-defined]  # a fixture's
            return storescu(node, *keys, "+cf", ours.certificate, "-aet", title, image)

        assert "(Success)" in with_(modality)
        [entry] = node.spool.waiting()
        assert entry.received.certificate == modality.fingerprint
        assert "Calling AE Title Not Recognized" in with_(spy)  # a title is only a claim
        assert "(Success)" in with_(spy, "CR2")
        assert "(Success)" not in with_(stranger)  # another authority's
        assert "(Success)" not in storescu(node, "+tla", "-ic", "-aet", "CR1", image)  # none
        assert "(Success)" not in storescu(node, "-aet", "CR1", image)  # in the clear
        eventually(lambda: node.counted(REFUSED, reason="certificate") >= 3)
        assert "(Success)" in with_(modality)


def test_until_when_the_certificate_is_valid_is_told(tmp_path: Path) -> None:
    server, metrics = Authority(tmp_path / "ca").issue("server"), Metrics()
    Tally(metrics).certificate(expiry(server.certificate))
    (told,) = [
        sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == c.CERTIFICATE_EXPIRY.name
    ]
    assert told > time.time()


def test_tls_1_1_is_not_spoken(tmp_path: Path) -> None:
    server = Authority(tmp_path / "ca").issue("server")
    with receiving(tmp_path, tls=server_context(server.certificate, server.key, None)) as node:
        found = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{node.port}", "-tls1_1"],
            input=b"", capture_output=True, timeout=30,
        )  # fmt: skip
        assert b"New, (NONE)" in found.stdout


def test_a_certificate_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    identity = Authority(tmp_path / "ca").issue("server")
    with pytest.raises(SettingsProblem, match="dicom_tls_certificate"):
        server_context(tmp_path / "nothing.pem", None, None)
    with pytest.raises(SettingsProblem, match="PEM"):
        server_context(identity.certificate, None, None)  # no key in it
    with pytest.raises(SettingsProblem, match="dicom_tls_clients"):
        server_context(identity.certificate, identity.key, tmp_path / "nothing.pem")


@pytest.mark.parametrize(
    ("attributes", "status", "reason"),
    [
        ({"SOPInstanceUID": "1.9.9"}, "a900", "other-instance"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "a900", "other-sop-class"),
        ({"StudyInstanceUID": None}, "c000", "no-uid"),
        ({"SeriesInstanceUID": ""}, "c000", "no-uid"),
        ({"StudyInstanceUID": "../../x"}, "c000", "no-uid"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_wrong_object_gets_its_status_and_is_kept_aside(
    tmp_path: Path, attributes: dict[str, str], status: str, reason: str
) -> None:
    path = write_image(tmp_path / "image.dcm")
    dataset = pydicom.dcmread(path)
    for name, value in attributes.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    with receiving(tmp_path) as node:
        ae = AE("CR1")
        ae.add_requested_context(pydicom.dcmread(path).SOPClassUID, "1.2.840.10008.1.2.1")
        association = ae.associate("127.0.0.1", node.port, ae_title="LAZARET")
        from service.pacs.by_hand import store
        from service.pacs.part10 import take_apart

        dataset.save_as(tmp_path / "wrong.dcm")
        wrong = take_apart((tmp_path / "wrong.dcm").read_bytes())
        right = take_apart(path.read_bytes())
        answer = store(association, type(wrong)(
            wrong.preamble, right.transfer_syntax, right.sop_class, right.sop_instance, b"",
            wrong.dataset,
        ))  # fmt: skip
        association.release()
        assert f"{answer.Status:04x}" == status
        assert 0 < len(answer.ErrorComment) <= 64
        assert [entry.reason for entry in node.spool.set_aside_entries()] == [reason]
        assert node.uids == []
        assert alive(node)


def test_objects_without_pixels_are_kept_and_counted_as_such(tmp_path: Path) -> None:
    path = write_image(tmp_path / "report.dcm", SOPClassUID=EncapsulatedPDFStorage)
    with receiving(tmp_path) as node:
        assert "(Success)" in storescu(node, path)
        assert len(node.uids) == 1
        assert node.counted(STORED, peer="other", status="not_image") == 1


@pytest.mark.parametrize(
    "charset", ["ISO_IR 192", "ISO 2022 IR 87", ["", "ISO 2022 IR 149"], "NO_SUCH_CHARSET"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_charset_stops_the_receiver(tmp_path: Path, charset: str | list[str]) -> None:
    path = write_image(tmp_path / "image.dcm", SpecificCharacterSet=charset)
    data = path.read_bytes().replace(b"Nobody^At ", b"\x1b$B;3ED^\x1b(")
    path.write_bytes(data)
    with receiving(tmp_path) as node:
        assert "(Success)" in storescu(node, path)
        [entry] = node.spool.waiting()
        assert b"\x1b$B;3ED^\x1b(" in entry.read()


def test_only_what_is_decoded_is_offered_for_images(tmp_path: Path) -> None:
    with receiving(tmp_path) as node:
        ae = AE("CR1")
        ae.add_requested_context("1.2.840.10008.5.1.4.1.1.1", ImplicitVRLittleEndian)
        ae.add_requested_context("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.1.2.4.112")  # JPEG XL
        ae.add_requested_context("1.2.840.10008.5.1.4.1.1.88.11", JPEGBaseline8Bit)  # an SR
        ae.add_requested_context("1.2.840.10008.5.1.4.1.2.2.1")  # C-FIND
        association = ae.associate("127.0.0.1", node.port, ae_title="LAZARET")
        assert [str(context.transfer_syntax[0]) for context in association.accepted_contexts] == [
            ImplicitVRLittleEndian
        ]
        association.release()


def test_a_full_disk_refuses_the_association_so_that_the_sender_waits(tmp_path: Path) -> None:
    image = write_image(tmp_path / "image.dcm")
    with receiving(tmp_path, reserve_bytes=2**60) as node:
        said = storescu(node, image)
        assert "Rejected Transient" in said
        assert node.counted(REFUSED, reason="full") == 1


def test_a_disk_that_fills_during_an_association_is_out_of_resources(tmp_path: Path) -> None:
    write_images(tmp_path / "files", 2)
    with receiving(tmp_path) as node:
        node.spool._reserve = 2**60
        node.spool.free_bytes = lambda: 1  # type: ignore[method-assign]  # the fault
        said = storescu(node, "+sd", tmp_path / "files")
        assert "Refused: OutOfResources" in said
        assert node.counted(STORED, peer="other", status="full") >= 1


def test_300_instances_in_one_association(tmp_path: Path) -> None:
    uids = write_images(tmp_path / "files", 300)
    with receiving(tmp_path, flush_each=False) as node:
        said = storescu(node, "+sd", tmp_path / "files")
        assert said.count("Received Store Response (Success)") == 300, said[-2000:]
        assert sorted(node.uids) == sorted(uids)
        assert all(entry.read() for entry in node.spool.waiting())


def test_20_associations_at_once(tmp_path: Path) -> None:
    uids = write_images(tmp_path / "files", 40)
    files = sorted((tmp_path / "files").iterdir())
    with receiving(tmp_path) as node:
        senders = [
            subprocess.Popen(
                ["storescu", "-aec", "LAZARET", "127.0.0.1", str(node.port), *files[i::20]]
            )
            for i in range(20)
        ]
        assert [sender.wait(60) for sender in senders] == [0] * 20
        assert sorted(node.uids) == sorted(uids)


def test_one_association_too_many_is_told_to_try_again(tmp_path: Path) -> None:
    with receiving(tmp_path, limits=LinkLimits(associations=1)) as node:
        ae = AE("CR1")
        ae.add_requested_context("1.2.840.10008.1.1")
        first = ae.associate("127.0.0.1", node.port, ae_title="LAZARET")
        assert first.is_established
        found = dcmtk("echoscu", "-v", "-aec", "LAZARET", "127.0.0.1", node.port).stdout
        assert "Rejected Transient" in found
        first.release()
        eventually(lambda: alive(node))


def test_the_same_instance_again_is_acknowledged_and_waits_once(tmp_path: Path) -> None:
    image = write_image(tmp_path / "image.dcm")
    with receiving(tmp_path) as node:
        assert "(Success)" in storescu(node, image)
        assert "(Success)" in storescu(node, image)
        assert len(node.uids) == 1
        assert node.counted(STORED, peer="other", status="duplicate") == 1
        write_image(image, Rows=32, PixelData=bytes(2 * 32 * 64))
        assert "(Success)" in storescu(node, image)
        assert len(node.uids) == 2
        assert len(node.alarms) == 1


# Faults


def request_and_half_an_image(port: int) -> socket.socket:
    """An association whose sender stops in the middle of a data set."""
    ae = AE("CR1")
    ae.add_requested_context("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.1.2.1")
    association = ae.associate("127.0.0.1", port, ae_title="LAZARET")
    assert association.is_established
    association.dul.kill_dul()
    connection = association.dul.socket.socket
    # C-STORE-RQ (PS3.7 section 9.3.1.1), then the first fragment of a data set
    command = b"".join(
        struct.pack("<HHI", 0, element, len(value)) + value
        for element, value in (
            (0x0002, b"1.2.840.10008.5.1.4.1.1.1\0"), (0x0100, b"\1\0"), (0x0110, b"\1\0"),
            (0x0700, b"\0\0"), (0x0800, b"\1\0"), (0x1000, b"1.2.3.40"),
        )
    )  # fmt: skip
    command = struct.pack("<HHII", 0, 0, 4, len(command)) + command
    for control, value in ((3, command), (0, bytes(1000))):
        item = struct.pack(">LBB", len(value) + 2, 1, control) + value
        connection.sendall(struct.pack(">BBL", 4, 0, len(item)) + item)
    return connection


def test_half_a_dataset_and_a_dropped_connection_keep_nothing(tmp_path: Path) -> None:
    with receiving(tmp_path) as node:
        connection = request_and_half_an_image(node.port)
        time.sleep(0.2)
        connection.close()
        eventually(lambda: node.counted("lazaret_dicom_associations_total", peer="other",
                                        outcome="aborted") == 1)  # fmt: skip
        assert node.uids == []
        assert not list((tmp_path / "spool").rglob("*.dcm"))
        assert alive(node)


def test_a_silent_sender_is_hung_up_on(tmp_path: Path) -> None:
    with receiving(tmp_path, limits=LinkLimits(idle_seconds=0.5)) as node:
        connection = request_and_half_an_image(node.port)
        connection.settimeout(10)
        while connection.recv(4096):
            pass
        assert alive(node)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: lazaret\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS where none is spoken
        b"\x01\x00\xff\xff\xff\xff",  # 4 GiB of association request
        b"\x01\x00\x00\x00\x00\x04abcd",
        b"\x04\x00\x00\x00\x00\x0a" + bytes(10),
        b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00",
        bytes(64),
        b"\xff" * 4096,
    ],
)
def test_what_is_not_dicom_is_hung_up_on_at_once(tmp_path: Path, sent: bytes) -> None:
    with receiving(tmp_path) as node:
        with socket.create_connection(("127.0.0.1", node.port), 5) as connection:
            connection.sendall(sent)
            connection.settimeout(5)
            try:
                while connection.recv(4096):
                    pass
            except ConnectionResetError:
                pass
        assert alive(node)
        assert node.uids == []


def test_connections_that_say_nothing_do_not_keep_others_out(tmp_path: Path) -> None:
    with receiving(tmp_path, limits=LinkLimits(connect_seconds=1, associations=4)) as node:
        silent = [socket.create_connection(("127.0.0.1", node.port), 5) for _ in range(40)]
        eventually(lambda: alive(node), 30)
        for connection in silent:
            connection.close()


def test_a_slow_handshake_does_not_keep_others_out(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    server = authority.issue("server")
    tls = server_context(server.certificate, server.key, None)
    with (
        receiving(tmp_path, tls=tls) as node,
        socket.create_connection(("127.0.0.1", node.port), 5),
    ):
        found = dcmtk(
            "echoscu", "+tla", "+cf", authority.certificate, "-aec", "LAZARET", "127.0.0.1",
            node.port, seconds=5,
        )  # fmt: skip
        assert found.returncode == 0, found.stdout


def test_an_instance_over_the_bound_is_aborted_before_it_is_held(tmp_path: Path) -> None:
    big = write_image(tmp_path / "big.dcm", side=512)
    small = write_image(tmp_path / "small.dcm")
    with receiving(tmp_path, limits=LinkLimits(instance_bytes=100_000)) as node:
        assert "(Success)" not in storescu(node, big)
        assert node.counted(REFUSED, reason="size") == 1
        assert "(Success)" in storescu(node, small)
    with receiving(tmp_path / "2", limits=LinkLimits(held_bytes=100_000)) as node:
        assert "(Success)" not in storescu(node, big)
        assert "(Success)" in storescu(node, small)  # what the other took is free again
        assert "(Success)" in storescu(node, small)


def test_a_sender_quicker_than_our_own_threads_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first PDU, larger than any request may be, arrives before the acceptor has gone on."""
    accepted = Receiver._accepted

    def slow(self: Receiver, event: Event) -> None:
        time.sleep(0.5)
        accepted(self, event)

    monkeypatch.setattr(Receiver, "_accepted", slow)
    big = write_image(tmp_path / "big.dcm", side=512)
    with receiving(tmp_path) as node:
        assert "(Success)" in storescu(node, "-pdu", "131072", big)
        assert len(node.uids) == 1


SERVER = (
    "import sys, threading\n"
    "sys.path.insert(0, 'tests/pacs')\n"
    "from pathlib import Path\n"
    "from receiving import receiving\n"
    "with receiving(Path(sys.argv[1]), flush_each=sys.argv[2] == 'each') as node:\n"
    "    print(node.port, flush=True)\n"
    "    threading.Event().wait()\n"
)


@pytest.mark.parametrize("flush", ["each", "behind"])
def test_kill_9_in_an_association_keeps_what_was_acknowledged(tmp_path: Path, flush: str) -> None:
    write_images(tmp_path / "files", 200)
    node = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path), flush],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert node.stdout is not None
    port = next(line.strip() for line in node.stdout if line.strip().isdigit())
    sender = subprocess.Popen(
        ["storescu", "-v", "-aec", "LAZARET", "127.0.0.1", port, "+sd", str(tmp_path / "files")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    eventually(lambda: len(list((tmp_path / "spool" / "files").iterdir())) >= 30, 60)
    node.kill()
    node.wait()
    output, _ = sender.communicate(timeout=60)
    said = output.splitlines()
    acknowledged = sum("Response (Success)" in line for line in said)
    assert 20 <= acknowledged < 200
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    uids = [entry.received.sop_instance for entry in spool.waiting()]
    # it sends in the order of its list, so what was acknowledged is a beginning of it
    names = [line.split(": ", 2)[2].strip() for line in said if "Sending file" in line]
    expected = [str(pydicom.dcmread(name).SOPInstanceUID) for name in names[:acknowledged]]
    assert set(expected) <= set(uids)
    assert len(uids) == len(set(uids)) <= acknowledged + 1
    assert all(entry.read() for entry in spool.waiting())
