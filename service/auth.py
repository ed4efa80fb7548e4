"""Who may ask: API keys, kept only as SHA-256 hashes, or anyone on the loopback address."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection, Mapping
from typing import Literal

from fastapi import Request

from service.problems import ServiceProblem
from service.settings import SettingsProblem

ANONYMOUS = "anonymous"


class Auth:
    """Names the client of a request, or refuses it.

    Args:
        keys: client name to the hex SHA-256 of its key.
        host: the address that the service is bound to.
        anonymous: ``loopback`` lets anyone ask while there are no keys and ``host`` is loopback.
        reviewers: clients that may decide on held images; without any key, anyone may.

    Raises:
        SettingsProblem: there are no keys and anonymous access is not allowed, or a reviewer has
            none.
    """

    def __init__(
        self,
        keys: Mapping[str, str],
        host: str,
        anonymous: Literal["loopback", "never"],
        reviewers: Collection[str] = (),
    ) -> None:
        if not keys and (anonymous == "never" or not is_loopback(host)):
            raise SettingsProblem(
                f"no API keys are configured, and without them {host} would answer anyone; set "
                "LAZARET_API_KEYS or LAZARET_API_KEYS_FILE, or bind to 127.0.0.1"
            )
        if unknown := sorted(set(reviewers) - set(keys)):
            raise SettingsProblem(f"setting reviewers: {unknown[0]} has no API key")
        self._reviewers = frozenset(reviewers)
        self._keys = {name: bytes.fromhex(digest) for name, digest in keys.items()}

    def client(self, request: Request) -> str:
        """The client's name. Raises ``ServiceProblem`` 401, or 403 for a rebound host name."""
        if not self._keys:
            # A web page can point its own name at 127.0.0.1 and read our answers; its Host header
            # gives it away.
            if not is_loopback(_host_name(request.headers.get("Host", ""))):
                raise ServiceProblem(403, "Without API keys, ask at 127.0.0.1 or localhost.")
            return ANONYMOUS
        return self.by_key(request.headers.get("Authorization", ""))

    def case_reader(self, request: Request) -> str:
        """The name of a client that may read cases: of a reviewer, where there are any. Raises
        ``ServiceProblem`` 401 or 403."""
        return self.reviewer(request) if self._reviewers else self.client(request)

    def reviewer(self, request: Request) -> str:
        """The name of a client that may decide on held images. Raises ``ServiceProblem`` 401, or
        403 for one that may not: whoever sends images must not release them."""
        client = self.client(request)
        if self._keys and client not in self._reviewers:
            raise ServiceProblem(
                403, "This key may not review; its client is not in the setting reviewers."
            )
        return client

    def by_key(self, authorization: str) -> str:
        """The name of whoever sends this ``Authorization``, over a protocol that no web page
        speaks. Raises ``ServiceProblem`` 401."""
        if not self._keys:
            return ANONYMOUS
        scheme, _, token = authorization.partition(" ")
        digest = hashlib.sha256(token.strip().encode()).digest()
        matches = [name for name, key in self._keys.items() if hmac.compare_digest(key, digest)]
        if scheme.lower() != "bearer" or not matches:
            raise ServiceProblem(401, "Send your key as `Authorization: Bearer KEY`.")
        return matches[0]


def _host_name(header: str) -> str:
    """The host of a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
