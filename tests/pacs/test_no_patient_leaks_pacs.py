"""Nothing of a patient that comes over DICOM is found in any log line, metric or trace."""

import json
import socket
import sys
import time
from pathlib import Path

import httpx
import pydicom
from served_node import DEMO, served_node
from servers.dcmtk import dcmtk
from servers.process import free_port

sys.path.append(str(Path(__file__).parents[1] / "service"))
from otlp_collector import collector

NAME, TITLE, UID = "Canarini^Zoe", "ZOECANARINI", "1.2.826.0.1.3680043.10.543.90210"
NUMBER, REMARK = "PID-7741-CANARY", "fell off a ladder in Trieste"
PLANTED = (NAME, "Canarini", TITLE, UID, NUMBER, REMARK, "Trieste", "zoe-canarini")


def planted(folder: Path, source: str, number: int, **changed: object) -> Path:
    dataset = pydicom.dcmread(DEMO / f"{source}.dcm")
    dataset.PatientName, dataset.PatientID, dataset.StudyDescription = NAME, NUMBER, REMARK
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = UID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{UID}.{number}"
    for keyword, value in changed.items():
        setattr(dataset, keyword, value)
    path = folder / f"zoe-canarini-{number}.dcm"
    dataset.save_as(path)
    return path


def test_planted_patients_are_found_nowhere(tmp_path: Path) -> None:
    files = [
        planted(tmp_path, "clean-2", 1),
        planted(tmp_path, "attacked-2", 2),
        planted(tmp_path, "clean-2", 3, Rows=127),
        planted(tmp_path, "clean-2", 4, WindowWidth=0),
    ]
    routes = {
        "peers": {
            "archive": {
                "kind": "dimse", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": free_port(),
                "timeout_seconds": 1,
            }
        },
        "default": {"destinations": ["archive"], "original": "forward"},
        "delivery": {"first_wait_seconds": 0.2, "longest_wait_seconds": 1, "lease_seconds": 3},
    }  # fmt: skip
    with collector() as traces:
        environment = {
            "LAZARET_OTLP_ENDPOINT": traces.url,
            "LAZARET_LOG_LEVEL": "debug",
            "LAZARET_DICOM_CALLERS": json.dumps({"ROOM1": "any"}),
        }
        with served_node(tmp_path, routes, **environment) as node:
            for title in ("ROOM1", TITLE):
                for file in files:
                    dcmtk(
                        "storescu", "-aet", title, "-aec", "LAZARET", "127.0.0.1", node.port, file
                    )
            dcmtk("storescu", "-aet", "ROOM1", "-aec", TITLE, "127.0.0.1", node.port, files[0])
            with socket.create_connection(("127.0.0.1", node.port)) as stranger:
                stranger.sendall(f"GET /{NAME}/{UID} HTTP/1.1\r\n\r\n".encode())
            until = time.monotonic() + 60
            while True:
                metrics = httpx.get(f"{node.url}/metrics").text
                judged = [
                    float(line.rpartition(" ")[2])
                    for line in metrics.splitlines()
                    if line.startswith("lazaret_requests_total") and 'interface="dicom"' in line
                ]
                if sum(judged) >= len(files):
                    break
                assert time.monotonic() < until, node.log.read_text()
                time.sleep(0.3)
            spans = traces.wait_for({"diagnosis"})
            found = {
                "logs": node.log.read_text(),
                "metrics": metrics,
                "traces": b"\n".join(traces.bodies).decode("latin-1"),
            }
    assert {span.name for span in spans} >= {"diagnosis", "decode", "infer"}
    for surface, text in found.items():
        for word in PLANTED:
            assert word not in text, f"{word} in {surface}"
