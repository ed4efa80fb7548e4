"""DICOM audit messages (PS3.15 section A.5) as XML by the schema of section A.5.1, and the syslog
message that carries one (RFC 5424, PS3.15 section A.6)."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

APPLICATION: Final = "lazaret"
FACILITY: Final = 10  # security and authorization messages
NOTICE, WARNING = 5, 4


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value of PS3.16, DCM unless said otherwise."""

    value: str
    meaning: str
    system: str = "DCM"


class Outcome(StrEnum):
    """EventOutcomeIndicator."""

    SUCCESS = "0"
    MINOR_FAILURE = "4"
    SERIOUS_FAILURE = "8"


APPLICATION_ACTIVITY: Final = Code("110100", "Application Activity")
START: Final = Code("110120", "Application Start")
STOP: Final = Code("110121", "Application Stop")
TRANSFERRED: Final = Code("110104", "DICOM Instances Transferred")
SECURITY_ALERT: Final = Code("110113", "Security Alert")
OVERRIDE: Final = Code("110127", "Emergency Override Started")
"""For a verdict that nobody gave: an image was let by unjudged."""
_APPLICATION_ROLE: Final = Code("110150", "Application")
_SOURCE_ROLE: Final = Code("110153", "Source Role ID")
_DESTINATION_ROLE: Final = Code("110152", "Destination Role ID")
_STUDY: Final = Code("110180", "Study Instance UID")
_PATIENT: Final = Code("2", "Patient Number", "RFC-3881")


@dataclass(frozen=True, slots=True)
class Participant:
    """Who took part. The AE title is a claim; the address was seen, the certificate proven."""

    user: str
    role: Code
    requestor: bool
    ae_title: str = ""
    address: str = ""
    certificate: str = ""
    """Hex SHA-256 of the certificate that it proved itself with."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The instance and whose it is."""

    study: str
    sop_class: str
    sop_instance: str
    patient: str


def us(ae_title: str, role: Code = _APPLICATION_ROLE, requestor: bool = False) -> Participant:
    """This process."""
    return Participant(str(os.getpid()), role, requestor, ae_title)


def source(user: str, address: str, certificate: str | None = None) -> Participant:
    """Who sent an instance."""
    return Participant(user, _SOURCE_ROLE, True, user, address, certificate or "")


def destination(ae_title: str) -> Participant:
    """This process, as who got an instance."""
    return us(ae_title, _DESTINATION_ROLE)


def peer(name: str, ae_title: str, address: str) -> Participant:
    """Whom we sent an object to, by its configured name."""
    return Participant(name, _DESTINATION_ROLE, False, ae_title, address)


def sender(ae_title: str) -> Participant:
    """This process, as who sent an object."""
    return us(ae_title, _SOURCE_ROLE, True)


def message(
    event: Code,
    at: datetime,
    participants: Sequence[Participant],
    *,
    action: str = "E",
    outcome: Outcome = Outcome.SUCCESS,
    kind: Code | None = None,
    description: str = "",
    subject: Subject | None = None,
) -> bytes:
    """One audit message.

    Args:
        action: C, R, U, D or E (execute).
        kind: EventTypeCode.
        description: EventOutcomeDescription, a fixed sentence.
    """
    root = Element("AuditMessage")
    identification = SubElement(
        root,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=at.isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=outcome,
    )
    _coded(identification, "EventID", event)
    if kind is not None:
        _coded(identification, "EventTypeCode", kind)
    if description:
        SubElement(identification, "EventOutcomeDescription").text = description
    for participant in participants:
        _participant(root, participant)
    origin = SubElement(root, "AuditSourceIdentification", AuditSourceID=APPLICATION)
    _coded(origin, "AuditSourceTypeCode", Code("4", "Application Server Process", "RFC-3881"))
    if subject is not None:
        _study(root, subject)
        _patient(root, subject)
    return bytes(tostring(root, encoding="utf-8", xml_declaration=True))


def syslog(xml: bytes, at: datetime, severity: int = NOTICE) -> bytes:
    """The message as syslog, without a transport's framing."""
    host = "".join(c for c in socket.gethostname() if "!" <= c <= "~")[:255] or "-"
    head = (
        f"<{FACILITY * 8 + severity}>1 {at.isoformat(timespec='milliseconds')} {host} "
        f"{APPLICATION} {os.getpid()} DICOM+RFC3881 - "
    )
    return head.encode("ascii") + b"\xef\xbb\xbf" + xml


def _coded(parent: Element, name: str, code: Code) -> None:
    SubElement(
        parent,
        name,
        {
            "csd-code": code.value,
            "codeSystemName": code.system,
            "originalText": code.meaning,
        },
    )


def _participant(root: Element, participant: Participant) -> None:
    given = {
        "UserID": _clean(participant.user),
        "UserIsRequestor": "true" if participant.requestor else "false",
    }
    if participant.ae_title:
        given["AlternativeUserID"] = f"AETITLES={_clean(participant.ae_title)}"
    if participant.certificate:  # the schema has no place of its own for it
        given["UserName"] = f"certificate sha256:{participant.certificate}"
    if participant.address:
        given["NetworkAccessPointID"] = _clean(participant.address)
        given["NetworkAccessPointTypeCode"] = "2"
    _coded(SubElement(root, "ActiveParticipant", given), "RoleIDCode", participant.role)


def _study(root: Element, subject: Subject) -> None:
    study = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_clean(subject.study),
        ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole="3",
    )
    _coded(study, "ParticipantObjectIDTypeCode", _STUDY)
    SubElement(study, "ParticipantObjectName")
    described = SubElement(study, "ParticipantObjectDescription")
    sop_class = SubElement(
        described, "SOPClass", UID=_clean(subject.sop_class), NumberOfInstances="1"
    )
    SubElement(sop_class, "Instance", UID=_clean(subject.sop_instance))


def _patient(root: Element, subject: Subject) -> None:
    patient = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_clean(subject.patient),
        ParticipantObjectTypeCode="1",
        ParticipantObjectTypeCodeRole="1",
    )
    _coded(patient, "ParticipantObjectIDTypeCode", _PATIENT)
    SubElement(patient, "ParticipantObjectName")


def _clean(text: str) -> str:
    """Without characters that XML 1.0 has no way to write."""
    return "".join(c for c in text if c.isprintable())
