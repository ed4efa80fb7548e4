"""Whom we send to: archives, DICOMweb services, FHIR servers and audit repositories, by name."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

PeerName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
"""Also a metrics label, so it comes from the configuration and never from the wire."""
AeTitle = Annotated[str, Field(pattern=r"^[ -\[\]-~]*[!-\[\]-~][ -\[\]-~]*$", max_length=16)]
"""PS3.5 section 6.2, AE: at most 16 printable characters but the backslash, not all spaces."""
Port = Annotated[int, Field(ge=1, le=65_535)]
Seconds = Annotated[float, Field(gt=0, le=600)]


class PeerProblem(Exception):
    """A peer whose files cannot be used. The message says which and what to do."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tls(_Frozen):
    """Files in PEM for a TLS client; an empty table trusts the system's authorities."""

    ca_file: Path | None = None
    """Authorities to trust in place of the system's."""
    certificate_file: Path | None = None
    """Our own certificate, for peers that ask for one."""
    key_file: Path | None = None
    """Its key, when the certificate's file does not hold it."""

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer, the peer's name checked. Raises ``PeerProblem``."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.certificate_file is not None:
                context.load_cert_chain(self.certificate_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            named = ", ".join(str(path) for path in (self.ca_file, self.certificate_file) if path)
            reason = error.strerror or type(error).__name__
            raise PeerProblem(f"tls: {named}: {reason}; give PEM files that can be read") from None
        return context


class DimsePeer(_Frozen):
    """A Storage SCP."""

    kind: Literal["dimse"]
    ae_title: AeTitle
    host: str
    port: Port
    calling_ae_title: AeTitle = "LAZARET"
    tls: Tls | None = None
    """None speaks in the clear."""
    timeout_seconds: Seconds = 30
    """For the connection, the association and each answer."""


class _HttpPeer(_Frozen):
    url: str = Field(pattern=r"^https?://[^\s?#]+$")
    authorization_file: Path | None = None
    """Its first line is sent as ``Authorization``, such as ``Bearer abc``."""
    tls: Tls = Tls()
    timeout_seconds: Seconds = 30

    @field_validator("url")
    @classmethod
    def _without_slash(cls, value: str) -> str:
        return value.rstrip("/")

    def headers(self) -> dict[str, str]:
        """What authorises a request; read anew each time, so that a secret can be renewed.
        Raises ``PeerProblem``."""
        if self.authorization_file is None:
            return {}
        try:
            lines = self.authorization_file.read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise PeerProblem(f"{self.authorization_file}: cannot be read ({error})") from None
        if not lines or not lines[0].strip():
            raise PeerProblem(f"{self.authorization_file}: its first line is empty")
        return {"Authorization": lines[0].strip()}


class DicomwebPeer(_HttpPeer):
    """A DICOMweb service; ``url`` is its root, to which ``/studies`` is added."""

    kind: Literal["dicomweb"]


class FhirPeer(_HttpPeer):
    """A FHIR R4 server; ``url`` is its base, to which the resource's type is added."""

    kind: Literal["fhir"]


class SyslogPeer(_Frozen):
    """An audit record repository (PS3.15 section A.6): RFC 5424 over TLS or UDP."""

    kind: Literal["syslog"]
    host: str
    port: Port = 6514
    transport: Literal["tls", "udp"] = "tls"
    tls: Tls = Tls()
    timeout_seconds: Seconds = 10


Peer = Annotated[
    DimsePeer | DicomwebPeer | FhirPeer | SyslogPeer,
    Field(discriminator="kind"),
]
ImagePeer = DimsePeer | DicomwebPeer
"""Peers that take DICOM instances."""
