"""The few attributes of an instance that routing reads and that emitted objects copy.

They come from the bounded header reader that decoding uses: no general parser sees a stranger's
bytes, and a sequence is never entered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from models.imaging.dicom_header import read
from service.pacs.routes import Traits

if TYPE_CHECKING:
    from pydicom import Dataset

_COPIED: Final = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyDate", "SeriesDate",
    "AcquisitionDate", "ContentDate", "StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime",
    "AccessionNumber", "Modality", "Manufacturer", "ReferringPhysicianName", "StudyDescription",
    "SeriesDescription", "InstitutionName",
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    "PatientAge", "PatientSize", "PatientWeight", "BodyPartExamined", "ViewPosition",
    "StudyInstanceUID", "SeriesInstanceUID", "StudyID", "SeriesNumber", "InstanceNumber",
    "FrameOfReferenceUID", "PositionReferenceIndicator", "Laterality", "ImageLaterality",
    "PatientOrientation", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames",
    "Rows", "Columns", "PixelSpacing", "ImagerPixelSpacing",
)  # fmt: skip
"""Keywords of PS3.6. Nothing else of an instance reaches an emitted object."""
_TRAITS: Final = {
    "modality": 0x00080060,
    "body_part": 0x00180015,
    "sop_class": 0x00080016,
}
_LONGEST: Final = 1024
"""Bytes of a value that is copied; the standard allows none of these more but by multiplicity."""


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


def attributes_of(data: bytes) -> Dataset:
    """The attributes that emitted objects copy, values undecoded until they are read.

    Raises:
        Exception: the header cannot be read; for bytes that were decoded it can be.
    """
    from pydicom import Dataset
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    tags = {}
    for keyword in _COPIED:
        number = tag_for_keyword(keyword)
        assert number is not None, keyword
        tags[number] = dictionary_VR(number)
    found = Dataset()
    for number, element in sorted(read(data, frozenset(tags)).elements.items()):
        if len(element.value) > _LONGEST:
            continue
        found[number] = RawDataElement(
            Tag(number), tags[number], len(element.value), element.value, 0, False, True
        )
    return found


def _text(value: bytes) -> str:
    return value[:_LONGEST].strip(b"\0 ").decode("ascii", "replace")
