"""The few attributes of an instance that routing reads and that emitted objects copy.

They come from the bounded header reader that decoding uses, so no general parser sees a
stranger's bytes and no sequence is entered; and a value that its VR does not allow is not copied,
so that no fault of a sender becomes one of ours.
"""

from __future__ import annotations

import io
import math
import re
import struct
import warnings
from typing import TYPE_CHECKING, Any, Final

from models.imaging.dicom_header import Elements, read
from service.pacs.received import is_uid
from service.pacs.routes import Traits

if TYPE_CHECKING:
    from pydicom import Dataset

UIDS: Final = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
"""Without these an instance has no place, and nothing can be put beside it."""
_TYPE_2: Final = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
    "StudyDate", "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""What every object has, if only empty."""
_COPIED: Final = (
    *UIDS, *_TYPE_2, "SpecificCharacterSet", "StudyDescription", "InstanceNumber",
    "IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight",
    "BodyPartExamined", "Laterality", "ImageLaterality", "PatientOrientation",
    "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "InstitutionName",
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns",
    "RescaleSlope", "RescaleIntercept", "RescaleType",
    "WindowCenter", "WindowWidth", "VOILUTFunction",
)  # fmt: skip
"""Keywords of PS3.6. Nothing else of an instance reaches an emitted object."""
_ENUMERATED: Final = {
    "PatientSex": re.compile(r"[MFO]?"),
    "Laterality": re.compile(r"[RL]?"),
    "ImageLaterality": re.compile(r"[RLUB]"),
    "PatientOrientation": re.compile(r"[AFHLPR]{1,3}"),
    "RescaleType": re.compile(r"[A-Z0-9_ ]{1,16}"),
}
_TRAITS: Final = {"modality": 0x00080060, "body_part": 0x00180015, "sop_class": 0x00080016}
_PATIENT_ID: Final = 0x00100020
_STUDY: Final = 0x0020000D
_LONGEST: Final = 1024
"""Bytes of a value that is copied; only a value of many parts could rightly have more."""


class Unplaceable(ValueError):
    """The instance lacks a UID without which nothing can be put beside it."""


def traits_of(data: bytes, calling_ae: str, called_ae: str) -> Traits:
    """What routes look at; what the file does not say readably is empty. Never fails."""
    try:
        elements = read(data, frozenset(_TRAITS.values())).elements
    except Exception:  # hostile bytes: the default route takes them
        return Traits(calling_ae=calling_ae, called_ae=called_ae)
    values = {
        name: _text(elements[tag].value) if tag in elements else "" for name, tag in _TRAITS.items()
    }
    return Traits(calling_ae=calling_ae, called_ae=called_ae, **values)


def study_and_patient_of(data: bytes) -> tuple[str, str]:
    """Study Instance UID and Patient ID, each empty where it is not there or not readable. Never
    fails."""
    try:
        elements = read(data, frozenset((_STUDY, _PATIENT_ID))).elements
    except Exception:  # hostile bytes
        return "", ""
    study, patient = (
        _text(elements[tag].value) if tag in elements else "" for tag in (_STUDY, _PATIENT_ID)
    )
    return study if is_uid(study) else "", patient if patient.isprintable() else ""


def has_pixels(data: bytes) -> bool:
    """Whether it is an image: what says that it has pixels, or cannot be read to the end, is
    taken for one. Never fails."""
    try:
        return read(data, frozenset()).pixels is not None
    except Exception:  # hostile bytes
        return True


def subject_of(data: bytes) -> Dataset:
    """The attributes that emitted objects copy, in UTF-8, each legal for its VR.

    Raises:
        Unplaceable: a UID is missing or is none.
        ImageProblem: the header cannot be read.
    """
    from pydicom import Dataset
    from pydicom.datadict import keyword_for_tag, tag_for_keyword

    tags = {tag_for_keyword(keyword): keyword for keyword in _COPIED}
    wanted = frozenset(tag for tag in tags if tag is not None)
    raw = _parsed(read(data, wanted).elements)
    subject = Dataset()
    subject.SpecificCharacterSet = "ISO_IR 192"
    for tag in sorted(wanted):
        keyword = keyword_for_tag(tag)
        if keyword == "SpecificCharacterSet" or tag not in raw:
            continue
        value = _legal(raw, tag, keyword)
        if value is not None:
            setattr(subject, keyword, value)
    for keyword in UIDS:
        if not is_uid(str(subject.get(keyword) or "")):
            raise Unplaceable(f"{keyword} is missing or is no UID")
    for keyword in _TYPE_2:
        if keyword not in subject:
            setattr(subject, keyword, "")
    return subject


def _parsed(elements: Elements) -> Dataset:
    """Composed anew from what the bounded reader found: nothing nested, nothing long."""
    from pydicom.filereader import read_dataset

    kept = {tag: e.value for tag, e in sorted(elements.items()) if len(e.value) <= _LONGEST}
    stream = b"".join(
        struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + bytes(value)
        for tag, value in kept.items()
    )
    return read_dataset(io.BytesIO(stream), is_implicit_VR=True, is_little_endian=True)


def _legal(raw: Dataset, tag: int, keyword: str) -> Any:
    """The value, or None where its VR or the attribute does not allow it."""
    from pydicom.config import RAISE
    from pydicom.multival import MultiValue
    from pydicom.valuerep import IS, DSfloat, PersonName, validate_value

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values
        try:
            element = raw[tag]
            value = element.value
            parts = list(value) if isinstance(value, MultiValue) else [value]
            for part in parts:
                if part is None:
                    return None
                plain = str(part) if isinstance(part, PersonName | DSfloat | IS) else part
                validate_value(element.VR, plain, RAISE)
                if element.VR == "DS" and not math.isfinite(float(plain)):
                    return None
                allowed = _ENUMERATED.get(keyword)
                if allowed is not None and not allowed.fullmatch(str(plain)):
                    return None
        except Exception:  # hostile values: whatever pydicom raises, they are not copied
            return None
    if isinstance(value, PersonName):
        return str(value)
    return [str(part) for part in parts] if len(parts) > 1 and element.VR == "CS" else value


def _text(value: bytes) -> str:
    return bytes(value[:_LONGEST]).strip(b"\0 ").decode("ascii", "replace")
