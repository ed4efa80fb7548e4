"""Who beside the archive is told of an instance: the audit repository and the FHIR server that the
route table names. Makes their parcels; the outbox brings them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from service.decide import Verdict
from service.pacs import audit_message as audit
from service.pacs.attributes import study_and_patient_of
from service.pacs.audit_message import Code, Outcome, Subject
from service.pacs.fhir_resources import audit_event, detected_issue
from service.pacs.outbox import Item, Parcel
from service.pacs.part10 import NotPart10, take_apart
from service.pacs.peers import DicomwebPeer, DimsePeer
from service.pacs.routes import RouteTable
from service.pacs.told import Told

FHIR_JSON = "application/fhir+json"
XML = "application/xml"


class Audiences:
    """Speaks for one process.

    Args:
        ae_title: what we are called.
    """

    def __init__(self, table: RouteTable, ae_title: str) -> None:
        self._audit = table.audit
        self._peers = table.peers
        self._ae_title = ae_title

    def of(self, told: Told) -> list[Parcel]:
        """What is told of one instance, verdict or none."""
        return [*self._audit_parcels(told), *_fhir_parcels(told)]

    def of_delivered(self, item: Item) -> list[Parcel]:
        """An audit message that an object has gone to a peer."""
        parcel, now = item.parcel, datetime.now(UTC)
        peer = self._peers.get(parcel.destination)
        if self._audit is None or not isinstance(peer, DimsePeer | DicomwebPeer):
            return []
        try:
            parts = take_apart(parcel.content)
        except NotPart10:  # no peer takes such a thing
            return []
        title, place = ("", peer.url) if isinstance(peer, DicomwebPeer) else (
            peer.ae_title, peer.host,
        )  # fmt: skip
        study, patient = study_and_patient_of(parcel.content)
        xml = audit.message(
            audit.TRANSFERRED,
            now,
            [audit.sender(self._ae_title), audit.peer(parcel.destination, title, place)],
            action="R",
            subject=Subject(study, parts.sop_class, parts.sop_instance, patient),
        )
        return [self._parcel(xml, now)]

    def started(self, now: datetime) -> list[Parcel]:
        """An audit message that this process begins to take part."""
        return self._activity(audit.START, now)

    def stopped(self, now: datetime) -> list[Parcel]:
        """An audit message that it ends."""
        return self._activity(audit.STOP, now)

    def _activity(self, kind: Code, now: datetime) -> list[Parcel]:
        if self._audit is None:
            return []
        xml = audit.message(audit.APPLICATION_ACTIVITY, now, [audit.us(self._ae_title)], kind=kind)
        return [self._parcel(xml, now)]

    def _audit_parcels(self, told: Told) -> list[Parcel]:
        if self._audit is None:
            return []
        received, now = told.received, datetime.now(UTC)
        subject = Subject(received.study, received.sop_class, received.sop_instance, told.patient)
        people = [
            audit.source(received.calling, received.address, received.certificate),
            audit.destination(self._ae_title),
        ]
        parcels = [
            self._parcel(
                audit.message(audit.TRANSFERRED, received.at, people, action="C", subject=subject),
                now,
            )
        ]
        alert = _alert(told)
        if alert is not None:
            event, outcome, description = alert
            xml = audit.message(
                event, now, people, outcome=outcome, description=description, subject=subject
            )
            parcels.append(self._parcel(xml, now, audit.WARNING))
        return parcels

    def _parcel(self, xml: bytes, now: datetime, severity: int = audit.NOTICE) -> Parcel:
        assert self._audit is not None
        return Parcel(self._audit, "audit", XML, audit.syslog(xml, now, severity))


def _alert(told: Told) -> tuple[Code, Outcome, str] | None:
    if told.bypassed:
        return audit.OVERRIDE, Outcome.MINOR_FAILURE, "An image was passed on without a verdict."
    if told.finding is None or told.finding.verdict is Verdict.ACCEPT:
        return None
    serious = told.finding.verdict is Verdict.REJECT
    outcome = Outcome.SERIOUS_FAILURE if serious else Outcome.MINOR_FAILURE
    return audit.SECURITY_ALERT, outcome, f"An image was held: {told.finding.verdict.value}."


def _fhir_parcels(told: Told) -> Sequence[Parcel]:
    server = told.choice.handling.fhir
    if server is None:
        return ()
    received, finding = told.received, told.finding
    now = datetime.now(UTC).isoformat(timespec="seconds")
    resources: list[dict[str, Any]] = [
        audit_event(
            finding, received.study, received.sop_instance, received.calling or "unknown",
            received.address, now, told.key, received.certificate,
        )
    ]  # fmt: skip
    if finding is not None and told.case_id is not None:
        resources.append(
            detected_issue(
                finding, received.study, received.sop_instance, told.patient, told.case_id
            )
        )
    return [
        Parcel(server, "fhir", FHIR_JSON, json.dumps(resource).encode()) for resource in resources
    ]
