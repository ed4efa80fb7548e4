"""Made-up radiographs as DICOM files: nobody's, each with its own UIDs and noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

PREFIX = "2.25.81"


def write_instances(folder: Path, count: int, side: int = 512, studies: int = 1) -> list[str]:
    """Write ``count`` files of ``side`` x ``side`` x 16 bit; their SOP Instance UIDs in order."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    field = rng.integers(0, 4096, (side, side), dtype=np.uint16)
    uids = []
    for number in range(count):
        dataset = Dataset()
        dataset.SOPClassUID = ComputedRadiographyImageStorage
        dataset.SOPInstanceUID = f"{PREFIX}.3.{number}"
        dataset.StudyInstanceUID = f"{PREFIX}.1.{number % studies}"
        dataset.SeriesInstanceUID = f"{PREFIX}.2.{number % studies}"
        dataset.StudyDate, dataset.StudyTime = "20260101", "120000"
        dataset.Modality, dataset.BodyPartExamined = "CR", "CHEST"
        dataset.PatientID, dataset.PatientName = f"P{number % studies}", "Nobody^At All"
        dataset.PatientBirthDate = dataset.PatientSex = dataset.AccessionNumber = ""
        dataset.StudyID = dataset.ReferringPhysicianName = ""
        dataset.SeriesNumber, dataset.InstanceNumber = 1, number
        dataset.Rows = dataset.Columns = side
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation = 0
        dataset.PixelData = np.roll(field, number, 1).tobytes()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.save_as(folder / f"{number:06d}.dcm", enforce_file_format=True)
        uids.append(str(dataset.SOPInstanceUID))
    return uids
