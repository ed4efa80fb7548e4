"""FHIR R4 resources of one screened instance: a DetectedIssue for what is held, and an AuditEvent
for every verdict. Neither says anything of the patient's health."""

from __future__ import annotations

from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from service.decide import Route, Verdict
from service.pacs.banner import banner
from service.pacs.finding import Finding

DICOM_CODES: Final = "http://dicom.nema.org/resources/ontology/DCM"
DICOM_UID: Final = "urn:dicom:uid"
VERDICTS: Final = "urn:lazaret:verdict"
REASONS: Final = "urn:lazaret:reason"
_SEVERITY: Final = {Verdict.FLAG: "moderate", Verdict.REJECT: "high"}
_REASON: Final = {
    Route.ADVERSARIAL: "Suspected adversarial manipulation of the image",
    Route.QUALITY: "Image degraded, or unlike the images the AI knows",
    Route.QUERY_ATTACK: "One of a series of like images that probe the AI",
}


def detected_issue(
    finding: Finding, study: str, instance: str, patient: str, case_id: str
) -> dict[str, Any]:
    """For a held image. ``preliminary``: no person has looked."""
    reason = finding.route
    resource: dict[str, Any] = {
        "resourceType": "DetectedIssue",
        "id": _id("issue", instance, finding),
        "identifier": [{"system": "urn:lazaret:case", "value": case_id}],
        "status": "preliminary",
        "severity": _SEVERITY[finding.verdict],
        "identifiedDateTime": finding.at.isoformat(timespec="seconds"),
        "author": {"type": "Device", "display": f"Lazaret guard of {finding.model}"},
        "implicated": [
            {"type": "ImagingStudy", "identifier": _uid(study)},
        ],
        "evidence": [{"detail": [{"display": "SOP instance", "identifier": _uid(instance)}]}],
        "detail": banner(finding),
    }
    if reason is not None:
        coding = {"system": REASONS, "code": reason.value, "display": _REASON[reason]}
        resource["code"] = {"coding": [coding], "text": _REASON[reason]}
    if patient:
        resource["patient"] = {"type": "Patient", "identifier": {"value": patient}}
    return resource


def audit_event(
    finding: Finding | None,
    study: str,
    instance: str,
    sender: str,
    address: str,
    at: str,
    key: str,
    certificate: str | None = None,
) -> dict[str, Any]:
    """For every instance: a security alert where it is held, else a transfer.

    Args:
        finding: None where the instance could not be judged.
        key: makes the id; the same for the same instance.
        certificate: hex SHA-256 of the one that the sender proved itself with.
    """
    verdict = "unjudged" if finding is None else finding.verdict.value
    held = finding is not None and finding.verdict is not Verdict.ACCEPT
    code, display = (
        ("110113", "Security Alert") if held else ("110104", "DICOM Instances Transferred")
    )
    agent: dict[str, Any] = {"who": {"display": sender}, "requestor": True}
    if certificate:
        agent["altId"] = f"sha256:{certificate}"
    if address:
        agent["network"] = {"address": address, "type": "2"}
    guard = "Lazaret" if finding is None else f"Lazaret guard of {finding.model}"
    entity: dict[str, Any] = {
        "type": {
            "system": "http://terminology.hl7.org/CodeSystem/audit-entity-type",
            "code": "2",
            "display": "System Object",
        },
        "detail": [{"type": "verdict", "valueString": verdict}],
    }
    if study:
        entity["what"] = {"type": "ImagingStudy", "identifier": _uid(study)}
    if instance:
        entity["detail"].append({"type": "SOP Instance UID", "valueString": instance})
    return {
        "resourceType": "AuditEvent",
        "id": str(uuid5(NAMESPACE_URL, f"urn:lazaret:audit:{key}")),
        "type": {"system": DICOM_CODES, "code": code, "display": display},
        "subtype": [{"system": VERDICTS, "code": verdict}],
        "action": "E",
        "recorded": at,
        "outcome": "8" if finding is None else "4" if held else "0",
        "agent": [
            agent,
            {"who": {"type": "Device", "display": guard}, "requestor": False},
        ],
        "source": {"observer": {"type": "Device", "display": guard}},
        "entity": [entity],
    }


def _id(kind: str, instance: str, finding: Finding) -> str:
    parts = (kind, instance, finding.frames[0].pixels, finding.bundle, finding.policy)
    return str(uuid5(NAMESPACE_URL, "urn:lazaret:" + ":".join(parts)))


def _uid(uid: str) -> dict[str, str]:
    """A DICOM UID as FHIR writes it (R4, ImagingStudy)."""
    return {"system": DICOM_UID, "value": f"urn:oid:{uid}"}
