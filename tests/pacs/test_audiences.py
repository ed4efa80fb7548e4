"""What the audit repository and the FHIR server get, and that it can be read there."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fhir.resources.R4B.auditevent import AuditEvent
from fhir.resources.R4B.detectedissue import DetectedIssue
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from servers.certificates import Authority
from servers.process import free_port
from test_emitted_objects import ACCEPTED, FINDING, image

from service.pacs import audit_message as audit
from service.pacs.audiences import Audiences
from service.pacs.finding import Finding
from service.pacs.outbox import Item, Parcel
from service.pacs.peers import FhirPeer, SyslogPeer, Tls
from service.pacs.received import Protocol, Received
from service.pacs.routes import RouteTable, Traits, choose
from service.pacs.senders import Outcome, Unreachable, sender_for
from service.pacs.told import Told

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
TABLE = RouteTable.model_validate(
    {
        "peers": {
            "atna": {"kind": "syslog", "host": "h"},
            "alerts": {"kind": "fhir", "url": "https://h/r4"},
        },
        "default": {"fhir": "alerts"},
        "audit": "atna",
    }
)


def told(finding: Finding | None, bypassed: bool = False) -> Told:
    return Told(
        key="key",
        received=Received(
            protocol=Protocol.DIMSE, calling="ROOM<1>", called="LAZARET", address="10.0.0.7",
            association="a", at=NOW, transfer_syntax="1.2.840.10008.1.2.1",
            sop_class="1.2.840.10008.5.1.4.1.1.1", sop_instance="1.2.3.4", study="1.2.3",
            certificate=64 * "a",
        ),
        choice=choose(TABLE, Traits()),
        finding=finding,
        case_id="c" * 32 if finding is FINDING else None,
        bypassed=bypassed,
        patient="42",
    )  # fmt: skip


def audits(parcels: list[Parcel]) -> list[ElementTree.Element]:
    messages = [parcel.content for parcel in parcels if parcel.object == "audit"]
    return [ElementTree.fromstring(m[m.index(b"<?xml") :]) for m in messages]


def code(message: ElementTree.Element) -> str:
    found = message.find("EventIdentification/EventID")
    assert found is not None
    return found.attrib["csd-code"]


@pytest.mark.parametrize(
    ("finding", "bypassed", "events"),
    [
        (ACCEPTED, False, ["110104"]),
        (FINDING, False, ["110104", "110113"]),
        (None, False, ["110104"]),
        (None, True, ["110104", "110127"]),
    ],
)
def test_each_event_of_an_instance_is_audited(
    finding: Finding | None, bypassed: bool, events: list[str]
) -> None:
    messages = audits(Audiences(TABLE, "LAZARET").of(told(finding, bypassed)))
    assert [code(message) for message in messages] == events
    for message in messages:
        # The order is the schema's (PS3.15 section A.5.1).
        assert [child.tag for child in message] == [
            "EventIdentification", "ActiveParticipant", "ActiveParticipant",
            "AuditSourceIdentification", "ParticipantObjectIdentification",
            "ParticipantObjectIdentification",
        ]  # fmt: skip
        sender = message.find("ActiveParticipant")
        assert sender is not None
        assert sender.attrib["NetworkAccessPointID"] == "10.0.0.7"
        assert sender.attrib["AlternativeUserID"] == "AETITLES=ROOM<1>"
        assert 64 * "a" in sender.attrib["UserName"]  # a title is a claim, this was proven
        study, patient = message.findall("ParticipantObjectIdentification")
        assert (study.attrib["ParticipantObjectID"], patient.attrib["ParticipantObjectID"]) == (
            "1.2.3",
            "42",
        )


def test_what_went_to_an_archive_is_audited_with_its_destination() -> None:
    peers = {
        "archive": {"kind": "dimse", "ae_title": "PACS", "host": "10.0.0.9", "port": 104},
        "atna": {"kind": "syslog", "host": "h"},
    }
    table = RouteTable.model_validate({"peers": peers, "audit": "atna"})
    audiences = Audiences(table, "LAZARET")

    def sent(destination: str) -> list[ElementTree.Element]:
        parcel = Parcel(destination, "image", "application/dicom", image())
        return audits(audiences.of_delivered(Item(1, parcel, 1, NOW)))

    (message,) = sent("archive")
    assert code(message) == "110104"
    us, them = message.findall("ActiveParticipant")
    assert us.attrib["UserIsRequestor"] == "true"
    assert them.attrib["AlternativeUserID"] == "AETITLES=PACS"
    assert them.attrib["NetworkAccessPointID"] == "10.0.0.9"
    study, patient = message.findall("ParticipantObjectIdentification")
    assert study.attrib["ParticipantObjectID"] == "1.2.3"
    assert patient.attrib["ParticipantObjectID"] == "42"
    assert sent("atna") == []  # of an audit message there is none


def test_codes_are_those_of_the_standard() -> None:
    named = [getattr(codes.DCM, name) for name in dir(codes.DCM)]
    known = {code.value: code.meaning for code in named if isinstance(code, Code)}
    for ours in (
        audit.APPLICATION_ACTIVITY, audit.START, audit.STOP, audit.TRANSFERRED,
        audit.SECURITY_ALERT, audit.OVERRIDE,
    ):  # fmt: skip
        assert known[ours.value] == ours.meaning


def test_starts_and_stops_are_audited() -> None:
    audiences = Audiences(TABLE, "LAZARET")
    for parcels, kind in (
        (audiences.started(NOW), "110120"),
        (audiences.stopped(NOW), "110121"),
    ):
        (message,) = audits(parcels)
        assert code(message) == "110100"
        found = message.find("EventIdentification/EventTypeCode")
        assert found is not None
        assert found.attrib["csd-code"] == kind
    assert Audiences(RouteTable(), "LAZARET").started(NOW) == []


def test_the_syslog_head_is_of_rfc_5424() -> None:
    message = audit.syslog(b"<x/>", NOW, audit.WARNING)
    head, _, rest = message.partition(b"\xef\xbb\xbf")
    priority, stamp, _, app, _, kind, data, empty = head.decode().split(" ")
    assert priority == "<84>1"
    assert datetime.fromisoformat(stamp) == NOW
    assert (app, kind, data, empty) == ("lazaret", "DICOM+RFC3881", "-", "")
    assert rest == b"<x/>"


@pytest.mark.parametrize("finding", [FINDING, ACCEPTED, None])
def test_fhir_resources_are_valid_and_about_the_study(finding: Finding | None) -> None:
    parcels = [p for p in Audiences(TABLE, "L").of(told(finding)) if p.object == "fhir"]
    event, *issues = (json.loads(parcel.content) for parcel in parcels)
    AuditEvent.model_validate(event)
    assert event["entity"][0]["what"]["identifier"]["value"] == "urn:oid:1.2.3"
    assert len(issues) == (1 if finding is FINDING else 0)
    for issue in issues:
        DetectedIssue.model_validate(issue)
        assert (issue["status"], issue["severity"]) == ("preliminary", "high")
        assert "conclusion" not in issue


def test_the_same_instance_makes_the_same_resources() -> None:
    def ids(finding: Finding) -> list[str]:
        parcels = Audiences(TABLE, "L").of(told(FINDING))
        return [json.loads(p.content)["id"] for p in parcels if p.object == "fhir"]

    assert ids(FINDING) == ids(replace(FINDING, at=NOW))


@contextmanager
def fhir_server(*statuses: int) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A server that answers each request with the next status; what it was asked."""
    asked: list[tuple[str, str]] = []
    left = list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, body.decode()))
            self.send_response(left.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/r4", asked
    finally:
        server.shutdown()
        server.server_close()


def item(content: bytes) -> Item:
    return Item(1, Parcel("p", "fhir", "application/fhir+json", content), 1, NOW)


def test_resources_are_put_under_their_own_id(tmp_path: Path) -> None:
    resource = json.dumps({"resourceType": "AuditEvent", "id": "abc"}).encode()
    with fhir_server(201, 400, 503) as (url, asked):
        sender = sender_for(FhirPeer(kind="fhir", url=url))
        outcomes = [sent.outcome for sent in sender.send([item(resource), item(resource)])]
        assert outcomes == [Outcome.DELIVERED, Outcome.NEVER]
        with pytest.raises(Unreachable, match="http-503"):
            list(sender.send([item(resource)]))
        sender.close()
    assert asked[0] == ("/r4/AuditEvent/abc", resource.decode())


def test_audit_messages_over_tls_are_framed_by_their_length(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    server = authority.issue("atna")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.certificate, server.key)
    received = b""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def take() -> None:
            nonlocal received
            connection, _ = listening.accept()
            with context.wrap_socket(connection, server_side=True) as stream:
                while piece := stream.recv(65_536):
                    received += piece

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        peer = SyslogPeer(
            kind="syslog", host="127.0.0.1", port=listening.getsockname()[1],
            tls=Tls(ca_file=authority.certificate),
        )  # fmt: skip
        sender = sender_for(peer)
        sent = list(sender.send([item(b"first"), item(b"second message")]))
        sender.close()
        thread.join(10)
    assert [s.outcome for s in sent] == [Outcome.DELIVERED] * 2
    assert received == b"5 first14 second message"


def test_audit_messages_over_udp_and_to_nobody() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        peer = SyslogPeer(
            kind="syslog", host="127.0.0.1", port=listening.getsockname()[1], transport="udp"
        )
        sender = sender_for(peer)
        list(sender.send([item(b"message")]))
        assert listening.recv(100) == b"message"
        sender.close()
    nobody = SyslogPeer(kind="syslog", host="127.0.0.1", port=free_port())
    with pytest.raises(Unreachable):
        list(sender_for(nobody).send([item(b"message")]))
