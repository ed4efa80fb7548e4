"""A bundle's manifest as a file, and why a bundle is refused. Torch-free."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"


class Refusal(StrEnum):
    """Why a bundle is not served."""

    HASH = "hash"
    """A file's content is not what the manifest says."""
    SIGNATURE = "signature"
    """No trusted key signed it."""
    SCHEMA = "schema"
    """It is of another version, for another model, or lacks something."""
    ENGINE = "engine"
    """Its graph does not run here."""
    FIXTURE = "fixture"
    """This machine reads its fixture otherwise than the one that fitted it."""
    CANARY = "canary"
    """One of its canaries does not get its verdict."""
    UNREADABLE = "unreadable"
    """A file is missing or cannot be read."""


class BundleProblem(Exception):
    """A bundle that must not be served. The message says which file and what to do."""

    def __init__(self, sentence: str, reason: Refusal) -> None:
        super().__init__(sentence)
        self.reason = reason


def read_manifest(directory: Path) -> bytes:
    """The bytes of ``manifest.json``, unverified. Raises ``BundleProblem``."""
    path = directory / MANIFEST
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleProblem(
            f"{path}: {error.strerror or error}; a bundle is the folder that `lazaret fit --out` "
            "writes",
            Refusal.UNREADABLE,
        ) from None
