"""From pixels to files, for attacks as delivered, demos and tests: PNG and DICOM."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Lossless PNG of ``uint8[H, W, 1 or 3]``; ``decode`` gives the same pixels back."""
    from PIL import Image as Pillow

    stream = io.BytesIO()
    Pillow.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()


def dicom(
    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
    *,
    bits_stored: int | None = None,
    patient: str = "",
    rle: bool = False,
) -> bytes:
    """A DICOM Digital X-Ray Image for Presentation of a phantom (PS3.3 section A.26).

    Its window spans all the stored bits, so ``decode`` gives 8-bit pixels back unchanged and
    12-bit ones as ``round(255 v / 4095)``. UIDs derive from the content (PS3.5 section B.2), so
    one image always is one instance; dates are left empty.

    Args:
        pixels: ``uint8`` or ``uint16`` ``[H, W, 1]``, below ``2**bits_stored``.
        bits_stored: as many as the dtype has, if None.
        patient: what tells phantoms apart; images that share it share a study.
        rle: RLE Lossless instead of Explicit VR Little Endian.

    Raises:
        ValueError: pixels that do not fit, or a shape that is not ``[H, W, 1]``.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 1:
        raise ValueError(f"a DICOM phantom is gray, [H, W, 1], not {pixels.shape}")
    allocated = pixels.dtype.itemsize * 8
    bits = allocated if bits_stored is None else bits_stored
    if not 1 <= bits <= allocated or int(pixels.max()) >= 2**bits:
        raise ValueError(f"pixels up to {int(pixels.max())} do not fit {bits} stored bits")

    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.filewriter import dcmwrite
    from pydicom.uid import (
        PYDICOM_IMPLEMENTATION_UID,
        UID,
        DigitalXRayImageStorageForPresentation,
        ExplicitVRLittleEndian,
    )

    content = hashlib.sha256(f"{pixels.shape}{bits}{patient}".encode() + pixels.tobytes()).digest()
    instance = UID(_uid(content))
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = instance
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = instance
    dataset.StudyInstanceUID = _uid(f"study {patient}".encode())
    dataset.SeriesInstanceUID = _uid(f"series {patient}".encode())
    _describe(dataset, patient)
    _add_pixels(dataset, pixels, bits)
    if rle:
        from pydicom.uid import RLELossless

        dataset.compress(RLELossless, generate_instance_uid=False)
    stream = io.BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def _describe(dataset: Dataset, patient: str) -> None:
    dataset.PatientName = "PHANTOM^CHEST"
    dataset.PatientID = f"PHANTOM{patient}"
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.PatientOrientation = ["L", "F"]
    dataset.StudyDate = dataset.StudyTime = dataset.AccessionNumber = dataset.StudyID = ""
    dataset.ReferringPhysicianName = dataset.Manufacturer = ""
    dataset.Modality = "DX"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = "PA"
    dataset.ImageLaterality = "U"
    dataset.SeriesDescription = "Synthetic phantom, no patient"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = -1


def _add_pixels(
    dataset: Dataset, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], bits: int
) -> None:
    allocated = pixels.dtype.itemsize * 8
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, bits, bits - 1
    dataset.PixelRepresentation = 0
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.WindowCenter, dataset.WindowWidth = str(2 ** (bits - 1)), str(2**bits)
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"


def _uid(content: bytes) -> str:
    """A UID of 122 random-looking bits under 2.25 (PS3.5 section B.2)."""
    return f"2.25.{int.from_bytes(hashlib.sha256(content).digest()[:16]) >> 6}"
