"""From pixels to files, for attacks as delivered, demos and tests: PNG, JPEG and DICOM."""

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


def jpeg(pixels: npt.NDArray[np.uint8], quality: int) -> bytes:
    """Baseline JPEG of ``uint8[H, W, 1 or 3]`` at Pillow's ``quality``, 1 to 100; colour at half
    resolution (4:2:0), as most programs save it."""
    from PIL import Image as Pillow

    stream = io.BytesIO()
    Pillow.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
        stream, "JPEG", quality=quality, subsampling="4:2:0"
    )
    return stream.getvalue()


def dicom(
    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
    *,
    bits_stored: int | None = None,
    patient: str = "",
    rle: bool = False,
    window: tuple[float, float] | None = None,
) -> bytes:
    """A DICOM image of a phantom: gray as Digital X-Ray for Presentation (PS3.3 section A.26), RGB
    of 8 bits as Secondary Capture (section A.8).

    Through the whole window ``decode`` gives 8-bit pixels back unchanged and 12-bit ones as
    ``round(255 v / 4095)``. UIDs derive from the content (PS3.5 section B.2),
    so one image always is one instance; dates are left empty.

    Args:
        pixels: ``uint8`` or ``uint16`` ``[H, W, 1]``, below ``2**bits_stored``; or
            ``uint8[H, W, 3]``.
        bits_stored: as many as the dtype has, if None.
        patient: what tells phantoms apart; images that share it share a study.
        rle: RLE Lossless instead of Explicit VR Little Endian.
        window: a gray image's window centre and width (PS3.3 section C.11.2.1.2); if None, it
            spans all the stored bits.

    Raises:
        ValueError: pixels that do not fit, or another shape or depth.
    """
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ValueError(f"a DICOM phantom is [H, W, 1] or RGB [H, W, 3], not {pixels.shape}")
    allocated = pixels.dtype.itemsize * 8
    bits = allocated if bits_stored is None else bits_stored
    colour = pixels.shape[2] == 3
    if colour and bits != 8:
        raise ValueError(f"an RGB DICOM phantom has 8 stored bits a channel, not {bits}")
    if not 1 <= bits <= allocated or int(pixels.max()) >= 2**bits:
        raise ValueError(f"pixels up to {int(pixels.max())} do not fit {bits} stored bits")

    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.filewriter import dcmwrite
    from pydicom.uid import (
        PYDICOM_IMPLEMENTATION_UID,
        UID,
        DigitalXRayImageStorageForPresentation,
        ExplicitVRLittleEndian,
        SecondaryCaptureImageStorage,
    )

    kind = SecondaryCaptureImageStorage if colour else DigitalXRayImageStorageForPresentation
    said = f"{pixels.shape}{bits}{patient}{'' if window is None else window}"
    content = hashlib.sha256(said.encode() + pixels.tobytes()).digest()
    instance = UID(_uid(content))
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = kind
    dataset.file_meta.MediaStorageSOPInstanceUID = instance
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    dataset.SOPClassUID = kind
    dataset.SOPInstanceUID = instance
    dataset.StudyInstanceUID = _uid(f"study {patient}".encode())
    dataset.SeriesInstanceUID = _uid(f"series {patient}".encode())
    _describe(dataset, patient)
    if colour:
        dataset.Modality, dataset.ConversionType = "OT", "WSD"
    else:
        _describe_radiograph(dataset)
    _add_pixels(dataset, pixels, bits, window or (2 ** (bits - 1), 2**bits))
    if rle:
        from pydicom.uid import RLELossless

        dataset.compress(RLELossless, generate_instance_uid=False)
    stream = io.BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def _describe(dataset: Dataset, patient: str) -> None:
    dataset.PatientID = f"PHANTOM{patient}"
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyDate = dataset.StudyTime = dataset.AccessionNumber = dataset.StudyID = ""
    dataset.ReferringPhysicianName = dataset.Manufacturer = ""
    dataset.PatientName = "PHANTOM"
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.SeriesDescription = "Synthetic phantom, no patient"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"


def _describe_radiograph(dataset: Dataset) -> None:
    dataset.PatientName = "PHANTOM^CHEST"
    dataset.PatientOrientation = ["L", "F"]
    dataset.Modality = "DX"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = "PA"
    dataset.ImageLaterality = "U"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = -1


def _add_pixels(
    dataset: Dataset,
    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
    bits: int,
    window: tuple[float, float],
) -> None:
    allocated = pixels.dtype.itemsize * 8
    dataset.SamplesPerPixel = pixels.shape[2]
    if pixels.shape[2] == 3:
        dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    else:
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
        dataset.WindowCenter, dataset.WindowWidth = (str(value) for value in window)
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, bits, bits - 1
    dataset.PixelRepresentation = 0
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"


def _uid(content: bytes) -> str:
    """A UID of 122 random-looking bits under 2.25 (PS3.5 section B.2)."""
    return f"2.25.{int.from_bytes(hashlib.sha256(content).digest()[:16]) >> 6}"
