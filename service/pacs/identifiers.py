"""UIDs that follow from what they name, so that building an object twice gives one object."""

from __future__ import annotations

from typing import Final
from uuid import UUID, uuid5

NAMESPACE: Final = UUID("6f0b4f0e-6d0e-4a6f-9d0b-3c1d1f6a8e57")
"""Ours alone, chosen at random once; changing it would make every object a new one."""


def uid(*parts: str) -> str:
    """A UID under 2.25 (PS3.5 section B.2) of the name-based UUID (RFC 9562, version 5) of the
    parts; their order and borders count."""
    name = "\n".join(f"{len(part)}:{part}" for part in parts)
    return f"2.25.{uuid5(NAMESPACE, name).int}"
