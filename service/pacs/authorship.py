"""What all our objects have in common: who made them, where in the study they lie, their UIDs."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final

from highdicom.sr import DeviceObserverIdentifyingAttributes, ObserverContext
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID

from service.pacs.finding import Finding
from service.pacs.identifiers import uid
from service.pacs.implementation import CLASS_UID, VERSION_NAME
from service.pacs.laterality import UNPAIRED
from service.pacs.routes import Emitted

MANUFACTURER: Final = "Lazaret"
MODEL: Final = "Lazaret"
SERIES_DESCRIPTION: Final = "AI guard: integrity screening"
SERIES_NUMBERS: Final = {
    Emitted.SR: 9001,
    Emitted.GSPS: 9002,
    Emitted.KOS: 9003,
    Emitted.SC: 9004,
}
"""High, so that viewers list them behind the images."""
BODY_PART_OF_SERIES: Final = frozenset((Emitted.GSPS, Emitted.SC))
"""The General Series module has Body Part Examined and Laterality; those of SR and KOS have not."""


@dataclass(frozen=True, slots=True)
class Made:
    """One object, as it will be stored."""

    kind: Emitted
    sop_class: str
    sop_instance: str
    file: bytes
    """DICOM, Explicit VR Little Endian."""


def placement(subject: Dataset, finding: Finding, kind: Emitted) -> dict[str, Any]:
    """Arguments that every builder of highdicom takes.

    The series is one a study and guard version; the instance is one a source image and guard
    version. Both UIDs follow from those, so an object built twice is the same object.
    """
    guard = (finding.bundle, finding.policy, finding.software, kind.value)
    return {
        "series_instance_uid": uid("series", str(subject.StudyInstanceUID), *guard),
        "series_number": SERIES_NUMBERS[kind],
        "sop_instance_uid": uid("instance", *_identity(subject), finding.frames[0].pixels, *guard),
        "instance_number": max(1, int(subject.get("InstanceNumber") or 1)),
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MODEL,
        "software_versions": finding.software,
        "device_serial_number": finding.bundle.removeprefix("sha256:")[:16],
        "series_description": SERIES_DESCRIPTION,
    }


def _identity(subject: Dataset) -> tuple[str, ...]:
    """Study and patient are part of it: a corrected header makes another object, where an archive
    would take the same UID under another patient for a mistake."""
    return str(subject.SOPInstanceUID), str(subject.StudyInstanceUID), str(subject.PatientID)


def observer(finding: Finding) -> ObserverContext:
    """The guard as the observing device (TID 1004)."""
    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=uid("device", finding.bundle),
            name=f"Lazaret guard of {finding.model}"[:64],
            manufacturer_name=MANUFACTURER,
            model_name=MODEL,
            serial_number=finding.bundle.removeprefix("sha256:")[:16],
        ),
    )


def made(built: Dataset, subject: Dataset, finding: Finding, kind: Emitted) -> Made:
    """The object as a file, with what highdicom leaves out and at the finding's own time."""
    prefix = "PresentationCreation" if kind is Emitted.GSPS else "Content"
    at = finding.at.astimezone()
    for name in (prefix, "InstanceCreation"):
        setattr(built, f"{name}Date", at.strftime("%Y%m%d"))
        setattr(built, f"{name}Time", at.strftime("%H%M%S"))
    built.file_meta.ImplementationClassUID = UID(CLASS_UID)
    built.file_meta.ImplementationVersionName = VERSION_NAME
    if kind in BODY_PART_OF_SERIES:
        if subject.get("BodyPartExamined"):
            built.BodyPartExamined = subject.BodyPartExamined
        if "Laterality" in built:
            del built.Laterality
        if subject.get("BodyPartExamined") not in UNPAIRED:
            # Type 2C: a side that nobody told us stands there empty.
            built.Laterality = subject.get("Laterality") or ""
    file = io.BytesIO()
    built.save_as(file, enforce_file_format=True)
    return Made(kind, str(built.SOPClassUID), str(built.SOPInstanceUID), file.getvalue())
