"""A private Orthanc with DICOMweb, which can be stopped and started on the same storage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from servers.process import accepts, free_port, program, running

DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
AE_TITLE = "ORTHANC"


@dataclass
class Orthanc:
    """Where it is, and what it is told when it starts."""

    folder: Path
    port: int = field(default_factory=free_port)
    """DIMSE."""
    http_port: int = field(default_factory=free_port)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of its configuration."""

    @property
    def url(self) -> str:
        """Its REST interface."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb(self) -> str:
        """Its DICOMweb root."""
        return f"{self.url}/dicom-web"

    @contextmanager
    def up(self) -> Iterator[None]:
        """Run it for a while; what it stored stays for the next time."""
        server = program("Orthanc", "orthanc orthanc-dicomweb")
        self.folder.mkdir(exist_ok=True)
        config = self.folder / "orthanc.json"
        config.write_text(json.dumps(self._configuration()))
        log = self.folder / "orthanc.log"
        # Its DICOM answers wait 40 ms each for a delayed acknowledgement otherwise.
        environment = {"TCP_NODELAY": "1"}
        ready = lambda: accepts(self.http_port) and accepts(self.port)  # noqa: E731  # of one line
        with running([server, str(config)], log, ready, environment=environment):
            yield

    def series(self, **query: str) -> list[dict[str, Any]]:
        """QIDO-RS: the series that match, as DICOM JSON."""
        answer = httpx.get(f"{self.dicomweb}/series", params=query, timeout=30)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json() if answer.content else []
        return found

    def modalities(self, **query: str) -> list[str]:
        """QIDO-RS: the modality of every series that matches, sorted."""
        return sorted(entry["00080060"]["Value"][0] for entry in self.series(**query))

    def instances(self) -> list[str]:
        """SOP Instance UIDs of everything stored, sorted, each as often as it is stored."""
        answer = httpx.get(f"{self.url}/instances", params={"expand": ""}, timeout=30)
        answer.raise_for_status()
        return sorted(entry["MainDicomTags"]["SOPInstanceUID"] for entry in answer.json())

    def file(self, sop_instance_uid: str) -> bytes:
        """A stored instance's DICOM file."""
        found = httpx.post(f"{self.url}/tools/lookup", content=sop_instance_uid, timeout=30)
        found.raise_for_status()
        answer = httpx.get(f"{self.url}/instances/{found.json()[0]['ID']}/file", timeout=30)
        answer.raise_for_status()
        return answer.content

    def _configuration(self) -> dict[str, Any]:
        return {
            "Name": "tests",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "HttpPort": self.http_port,
            "DicomPort": self.port,
            "DicomAet": AE_TITLE,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [str(DICOMWEB)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "OverwriteInstances": False,
            **self.settings,
        }
