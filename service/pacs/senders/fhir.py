"""FHIR R4 resources, by an update of an id that we choose (``PUT``): sent twice is there once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import httpx

from service.pacs.outbox import Item
from service.pacs.peers import FhirPeer
from service.pacs.senders.sender import Outcome, Sent
from service.pacs.senders.stow import client_for, meaning_of_status, post


class FhirSender:
    """Puts to ``URL/TYPE/ID``."""

    def __init__(self, peer: FhirPeer) -> None:
        self._peer = peer
        self._client: httpx.Client | None = None

    def send(self, items: Sequence[Item]) -> Iterator[Sent]:
        """As ``Sender.send``."""
        for item in items:
            yield Sent(item, *self._put(item.parcel.content))

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _put(self, content: bytes) -> tuple[Outcome, str | None]:
        if self._client is None:
            self._client = client_for(self._peer)
        resource = json.loads(content)
        path = f"/{resource['resourceType']}/{resource['id']}"
        headers = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}
        status, _ = post(self._client, self._peer, path, content, headers, "PUT")
        return meaning_of_status(status)
