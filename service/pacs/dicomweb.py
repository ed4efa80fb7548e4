"""A DICOMweb peer over HTTP."""

from __future__ import annotations

import httpx

from service.pacs.peers import DicomwebPeer

JSON = "application/dicom+json"


def client_of(peer: DicomwebPeer) -> httpx.Client:
    """A client whose addresses are relative to the peer's root. It follows no redirects: an
    archive that answers with another address is not the one that was configured.

    Raises:
        PeerProblem: one of the peer's files cannot be used.
    """
    return httpx.Client(
        base_url=peer.url,
        headers={"Accept": JSON, **peer.headers()},
        verify=peer.tls.context() if peer.url.startswith("https:") else True,
        timeout=peer.timeout_seconds,
        follow_redirects=False,
    )
