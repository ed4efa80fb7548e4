"""Parts on disk, named for what they were made from: nothing is ever attacked twice."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path

from safetensors import SafetensorError

from attacks.work import Part


def default_folder() -> Path:
    """``$LAZARET_CACHE``, else ``lazaret/attacks`` in the user's cache folder."""
    chosen = os.environ.get("LAZARET_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lazaret" / "attacks"


@dataclass(frozen=True, slots=True)
class PartStore:
    """A folder of parts by digest. Several runs may share it; any file may be removed any time."""

    folder: Path

    def holds(self, digest: str) -> bool:
        """Whether something is stored under that name."""
        return self._path(digest).exists()

    def get(self, digest: str) -> Part | None:
        """The part, or None if it is not there or cannot be read."""
        path = self._path(digest)
        try:
            return Part.from_bytes(path.read_bytes())
        except (OSError, SafetensorError, JSONDecodeError, KeyError, ValueError):
            return None  # absent, or cut short by a full disk: it is made again

    def put(self, digest: str, part: Part) -> None:
        """Store it whole or not at all."""
        write_whole(self._path(digest), part.to_bytes())

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest}.safetensors"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, and its folder, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:  # whatever stops it, nothing half written stays
        Path(name).unlink(missing_ok=True)
        raise
