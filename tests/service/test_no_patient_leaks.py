"""Nothing of a patient that a request carries is found in any log line, metric or trace."""

import io
import struct
import zlib
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest
from conftest import Server, server_process
from otlp_collector import collector
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from tiny_bundle import ACCEPTED, FLAGGED, REJECTED, flat

NAME, UID, FILE = "Canarini^Zoe", "1.2.826.0.1.3680043.10.543.90210", "zoe-canarini-1931.png"
NUMBER, REMARK, SECRET = "PID-7741-CANARY", "fell off a ladder in Trieste", "key-of-the-ward"
PLANTED = (NAME, "Canarini", UID, FILE, "zoe-canarini", NUMBER, REMARK, "Trieste", SECRET)


def dicom(gray: int, **changed: object) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = UID
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, UID
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = UID
    dataset.PatientName, dataset.PatientID = NAME, NUMBER
    dataset.StudyDescription = dataset.SeriesDescription = REMARK
    dataset.PatientComments = REMARK
    dataset.Rows = dataset.Columns = 32
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = np.full((32, 32), gray, np.uint8).tobytes()
    for keyword, value in changed.items():
        setattr(dataset, keyword, value)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def png_with_text() -> bytes:
    """A PNG whose text chunk names the patient."""
    chunk = b"tEXt" + f"Author\0{NAME} {UID}".encode()
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = flat(FLAGGED)
    return data[:33] + whole + data[33:]


def invalid(data: bytes) -> bytes:
    """Values that pydicom would warn of, quoting them."""
    return data.replace(b"DA\x08\x00", b"DA\x08\x00").replace(
        UID.encode(), UID[:-1].encode() + b"x"
    )


def ask(url: str) -> None:
    """Everything that a client may say, with the patient in it."""
    free = {
        "User-Agent": NAME, "X-Request-ID": UID, "traceparent": f"00-{NAME}-{UID}-01",
        "tracestate": f"ward={NUMBER}", "baggage": f"patient={NUMBER}", "Referer": f"http://{FILE}",
        "X-Forwarded-For": NUMBER, "Cookie": f"patient={NUMBER}", "X-Request-Timeout": NUMBER,
        "Accept": f"application/openmetrics-text; version={NUMBER}",
    }  # fmt: skip
    files = [dicom(ACCEPTED), dicom(REJECTED), png_with_text(), invalid(dicom(ACCEPTED))]
    files += [dicom(ACCEPTED)[:-700], dicom(ACCEPTED, Rows=31), dicom(ACCEPTED, HighBit=99)]
    files += [dicom(ACCEPTED, PhotometricInterpretation=NAME[:16]), NAME.encode(), b""]
    with httpx.Client(base_url=url) as client:
        for data in files:
            client.post("/diagnose", content=data, headers={**free, "X-Request-Timeout": "30"})
            client.post("/diagnose", content=data, headers=free)
            client.post("/diagnose", files={"image": (FILE, data, f"image/{FILE}")})
            client.post("/diagnose", files={FILE: (NAME, data, "image/png")})
            client.post("/diagnose/batch", content=data, headers=free)
            client.post(f"/v2/models/{NUMBER}/infer", content=data, headers=free)
        client.post("/diagnose", params={"model": NAME}, content=b"x", headers=free)
        client.post("/diagnose", content=b"x", headers={"Authorization": f"Bearer {SECRET}"})
        client.request(NUMBER, "/diagnose", headers=free)
        for path in (f"/cases/{UID}", f"/cases?state={NAME}", f"/{FILE}", f"/drift?who={NUMBER}"):
            client.get(path, headers=free)
        client.get("/metrics", headers=free)


def surfaces(server: Server, spans: list[bytes]) -> dict[str, str]:
    with httpx.Client(base_url=server.url) as client:
        return {
            "logs": server.log.read_text(),
            "metrics": client.get("/metrics").text,
            "openmetrics": client.get(
                "/metrics", headers={"Accept": "application/openmetrics-text"}
            ).text,
            "drift": client.get("/drift").text,
            "traces": b"\n".join(spans).decode("latin-1"),
        }


def test_planted_patients_are_found_nowhere(bundle: Path, tmp_path: Path) -> None:
    command = ["-m", "service", "serve", "--bundle", str(bundle), "--log-level", "debug"]
    with collector() as traces:
        environment = {"LAZARET_OTLP_ENDPOINT": traces.url}
        with server_process(command, tmp_path, environment) as server:
            ask(server.url)
            traces.wait_for({"POST /diagnose", "diagnosis", "none"} - {"none"})
            found = surfaces(server, traces.bodies)
    assert '"judged"' in found["logs"]
    assert '"refused"' in found["logs"]
    for surface, text in found.items():
        for planted in PLANTED:
            assert planted not in text, f"{planted} in {surface}"


@pytest.mark.parametrize("name", ["pydicom", "pynetdicom.service", "PIL.Image", "anything"])
def test_what_a_library_says_is_not_logged(
    name: str, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    import json
    import logging
    import warnings

    import structlog

    from service.logs import configure

    configure("debug")
    # the PACS half silences pynetdicom altogether; here it must have its say
    logger = logging.getLogger(name)
    request.addfinalizer(partial(logger.setLevel, logger.level))
    logger.setLevel(logging.DEBUG)
    try:
        raise ValueError(NAME)
    except ValueError as error:
        logger.error("cannot read %s", NAME, exc_info=True)
        structlog.get_logger().error("failed", exc_info=error)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(NAME, stacklevel=1)
    text = capsys.readouterr().err
    assert NAME not in text
    library, ours = (json.loads(line) for line in text.splitlines()[:2])
    assert (library["logger"], library["level"]) == (name, "error")
    assert (ours["error"], ours["event"]) == ("ValueError", "failed")
    assert ours["where"][0].startswith("test_no_patient_leaks:")
