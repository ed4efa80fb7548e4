"""STOW-RS (PS3.18 section 10.5): one instance a request, over a connection that is kept."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Final

import httpx

from service.pacs.outbox import Item
from service.pacs.peers import DicomwebPeer, PeerProblem
from service.pacs.senders.sender import Outcome, Sent, Unreachable

ANSWER_BYTES: Final = 2**20
_REFERENCED, _FAILED, _REASON = "00081199", "00081198", "00081197"


class StowSender:
    """Posts to ``URL/studies``."""

    def __init__(self, peer: DicomwebPeer) -> None:
        self._peer = peer
        self._client: httpx.Client | None = None

    def send(self, items: Sequence[Item]) -> Iterator[Sent]:
        """As ``Sender.send``."""
        for item in items:
            yield Sent(item, *self._store(item.parcel.content))

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _store(self, file: bytes) -> tuple[Outcome, str | None]:
        boundary = secrets.token_hex(16)
        body = b"".join(
            (
                f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode(),
                file,
                f"\r\n--{boundary}--\r\n".encode(),
            )
        )
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        }
        status, answer = post(self._connected(), self._peer, "/studies", body, headers)
        if status in (200, 202, 409):
            return _meaning(status, answer)
        return meaning_of_status(status)

    def _connected(self) -> httpx.Client:
        if self._client is None:
            self._client = client_for(self._peer)
        return self._client


def client_for(peer: Any) -> httpx.Client:
    """A connection to an HTTP peer; redirects are not followed. Raises ``Unreachable``."""
    try:
        verify = peer.tls.context() if peer.url.startswith("https:") else True
    except PeerProblem:
        raise Unreachable("certificate-files") from None
    return httpx.Client(timeout=peer.timeout_seconds, verify=verify, follow_redirects=False)


def post(
    client: httpx.Client,
    peer: Any,
    path: str,
    body: bytes,
    headers: dict[str, str],
    method: str = "POST",
) -> tuple[int, Any]:
    """The status and, if it is JSON of a bearable size, the answer. Raises ``Unreachable``."""
    try:
        given = {**headers, **peer.headers()}
    except PeerProblem:
        raise Unreachable("authorization-file") from None
    try:
        with client.stream(method, f"{peer.url}{path}", content=body, headers=given) as response:
            read = b""
            for piece in response.iter_bytes():
                read += piece
                if len(read) > ANSWER_BYTES:
                    return response.status_code, None
            return response.status_code, _json(response, read)
    except httpx.HTTPError:
        raise Unreachable("unreachable") from None


def meaning_of_status(status: int) -> tuple[Outcome, str | None]:
    """What an HTTP status means for one object. Raises ``Unreachable`` for those that would meet
    every object: a secret that is wrong today may be mended tomorrow."""
    if 200 <= status < 300:
        return Outcome.DELIVERED, None
    word = f"http-{status}"
    if status >= 500 or status in (401, 403, 404, 405, 407, 408, 425, 429) or status < 400:
        raise Unreachable(word)
    return Outcome.NEVER, word


def _meaning(status: int, answer: Any) -> tuple[Outcome, str | None]:
    """PS3.18 table 10.5.3-1 and section I.2."""
    failed = _items(answer, _FAILED)
    if not failed:
        return (Outcome.DELIVERED, None) if status != 409 else (Outcome.NEVER, "http-409")
    reason = failed[0].get(_REASON, {}).get("Value", [0])[0]
    code = reason if isinstance(reason, int) else 0
    word = f"reason-{code & 0xFFFF:04X}"
    out_of_resources = 0xA700 <= code <= 0xA7FF or code == 0x0110
    return (Outcome.LATER if out_of_resources else Outcome.NEVER), word


def _items(answer: Any, tag: str) -> list[dict[str, Any]]:
    if isinstance(answer, list):
        answer = answer[0] if answer else {}
    if not isinstance(answer, dict):
        return []
    found = answer.get(tag, {})
    items = found.get("Value", []) if isinstance(found, dict) else []
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _json(response: httpx.Response, read: bytes) -> Any:
    import json

    if "json" not in response.headers.get("Content-Type", ""):
        return None
    try:
        return json.loads(read)
    except ValueError:
        return None
