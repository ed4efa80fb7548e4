"""A Storage SCP in this process, and small DICOM files to send to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from service.metrics import Metrics
from service.pacs.callers import Callers
from service.pacs.link_limits import LinkLimits
from service.pacs.receiver import Receiver, ReceiverConfig
from service.pacs.spool import Spool
from service.pacs.spool_entry import Entry
from service.pacs.tally import Tally


@dataclass
class Receiving:
    """What a test looks at."""

    spool: Spool
    port: int
    metrics: Metrics
    alarms: list[Entry]

    @property
    def uids(self) -> list[str]:
        """SOP Instance UIDs that wait, in order of arrival."""
        return [entry.received.sop_instance for entry in self.spool.waiting()]

    def counted(self, name: str, **labels: str) -> float:
        """The value of a counter."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    @property
    def page(self) -> str:
        """Everything that Prometheus would read."""
        return generate_latest(self.metrics.registry).decode()


@contextmanager
def receiving(
    folder: Path,
    *,
    callers: Callers | None = None,
    limits: LinkLimits | None = None,
    reserve_bytes: int = 0,
    **config: Any,
) -> Iterator[Receiving]:
    """Listen on a free port, by default to anybody."""
    callers = callers or Callers({}, open_=True)
    metrics, alarms = Metrics(), []  # type: ignore[var-annotated]  # filled by the receiver
    spool = Spool(folder / "spool", reserve_bytes=reserve_bytes, alarm=alarms.append)
    receiver = Receiver(
        ReceiverConfig("127.0.0.1", 0, "LAZARET", callers, limits=limits or LinkLimits(), **config),
        spool,
        Tally(metrics, callers.titles),
    )
    receiver.start()
    try:
        yield Receiving(spool, receiver.port, metrics, alarms)
    finally:
        receiver.stop(1)
        spool.close()


def write_image(path: Path, uid: str = "1.2.3.4", side: int = 64, **attributes: Any) -> Path:
    """A small radiograph; an attribute that is None is left out."""
    dataset = Dataset()
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    dataset.Modality, dataset.PatientID, dataset.PatientName = "CR", "P1", "Nobody^At"
    dataset.Rows = dataset.Columns = side
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = bytes(range(256)) * (side * side // 128)
    for name, value in attributes.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "1.2")
    dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_images(folder: Path, count: int, side: int = 64) -> list[str]:
    """Many; their UIDs in the order of their names."""
    folder.mkdir(exist_ok=True)
    uids = [f"1.2.3.4.{number}" for number in range(count)]
    for number, uid in enumerate(uids):
        write_image(folder / f"{number:04d}.dcm", uid, side)
    return uids
