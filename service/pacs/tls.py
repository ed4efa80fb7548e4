"""TLS of the Storage SCP: 1.2 or newer, the ciphers of BCP 195 (PS3.15 section B.9)."""

from __future__ import annotations

import ssl
from datetime import datetime
from pathlib import Path

from service.settings import SettingsProblem

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption; 1.3 has nothing else."""


def server_context(certificate: Path, key: Path | None, clients: Path | None) -> ssl.SSLContext:
    """A server's context.

    Args:
        key: None where the certificate's file holds it.
        clients: authorities; with them every client must show a certificate.

    Raises:
        SettingsProblem: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise SettingsProblem(
            f"settings dicom_tls_certificate and dicom_tls_key: {certificate} with "
            f"{key or 'itself as the key'}: {_why(error)}; give a PEM certificate and its PEM key"
        ) from None
    if clients is not None:
        try:
            context.load_verify_locations(clients)
        except (OSError, ssl.SSLError) as error:
            raise SettingsProblem(
                f"setting dicom_tls_clients: {clients}: {_why(error)}; give PEM certificates"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def expiry(certificate: Path) -> datetime:
    """Until when a PEM certificate that ``server_context`` took is valid."""
    # Here, because only a site with TLS needs it.
    from cryptography.x509 import load_pem_x509_certificate

    return load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def _no_password() -> str:
    raise ValueError("the key is encrypted; give one that is not, readable by the service alone")


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return str(error.reason or "it is not usable").lower().replace("_", " ")
    return str(getattr(error, "strerror", None) or error)
