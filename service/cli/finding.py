"""What ``lazaret doctor`` finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``good`` is None for what is optional and absent."""

    subject: str
    good: bool | None
    detail: str
