"""Who may call: AE titles, and the certificates that prove them."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from enum import StrEnum

ANY = "any"


class CallerRefusal(StrEnum):
    """Why a caller is turned away; also the metrics label."""

    TITLE = "calling_ae"
    CERTIFICATE = "certificate"


class Callers:
    """The list. An AE title is a claim; with a certificate's fingerprint it is proven.

    Args:
        known: calling AE title to the hex SHA-256 of its certificate, or ``any``.
        open_: let any title call, as only a loopback address may.
    """

    def __init__(self, known: Mapping[str, str], *, open_: bool = False) -> None:
        self._known = dict(known)
        self._open = open_

    @property
    def titles(self) -> tuple[str, ...]:
        """The configured titles."""
        return tuple(self._known)

    def refuse(self, calling: str, certificate: str | None) -> CallerRefusal | None:
        """Why this caller may not call, or None when it may."""
        wanted = self._known.get(calling)
        if wanted is None:
            return None if self._open else CallerRefusal.TITLE
        if wanted != ANY and not hmac.compare_digest(wanted.lower(), certificate or ""):
            return CallerRefusal.CERTIFICATE
        return None
