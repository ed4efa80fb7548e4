"""A bundle: the directory that holds everything needed to serve one guarded model.

``manifest.json`` names every other file with its SHA-256; nothing is read before its hash fits,
and nothing in a bundle is a pickle. Torch-free: serving uses it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from detectors.calibrate import Calibration, Cell, assured_level
from models.spec import ModelSpec

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SCHEMA = 1
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
GRAPH = "guard.onnx"
CALIBRATION = "calibration.safetensors"

Alpha = Annotated[float, Field(gt=0, lt=1)]


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


class Alphas(BaseModel):
    """False-positive rates that the operator accepts, each per predicted class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flag: Alpha = 0.01
    reject: Alpha = 0.001
    quality: Alpha = 0.01


class CellLevels(BaseModel):
    """What one class's calibration images can support. None: too few images for that level."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    flag: float | None
    reject: float | None
    quality: float | None


def levels_for(cell: Cell, alphas: Alphas) -> CellLevels:
    """What one class's calibration images support at these rates."""
    n = len(cell)
    return CellLevels(
        images=n,
        flag=assured_level(n, alphas.flag),
        reject=assured_level(n, alphas.reject),
        quality=assured_level(n, alphas.quality),
    )


class DetectorEntry(BaseModel):
    """One detector of the fused graph, in the order of its column in ``scores``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    parameters: dict[str, Any] = {}


class Manifest(BaseModel):
    """``manifest.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    model: ModelSpec
    detectors: tuple[DetectorEntry, ...]
    tap_widths: tuple[int, ...]
    """Width of every tap, in the order in which the graph's ``taps`` output joins them."""
    alphas: Alphas = Alphas()
    levels: tuple[CellLevels, ...]
    """Per class: the nominal p-value at or below which a verdict is given, corrected for the
    calibration set's size so that the realised FPR keeps to ``alphas`` with 95 % confidence."""
    provenance: dict[str, Any] = {}
    """How it was fitted: data, splits, attacks, seeds, versions."""
    files: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]
    """SHA-256 of every other file, by name."""


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle, in memory: what was hashed is what is used."""

    directory: Path
    manifest: Manifest
    digest: str
    """``sha256:`` of ``manifest.json``, and so, by the hashes in it, of the whole bundle."""
    graph: bytes
    """The fused ONNX graph."""
    calibration: Calibration

    @classmethod
    def open(cls, directory: Path, keys: Sequence[Ed25519PublicKey] = ()) -> Self:
        """Read and verify. Raises ``BundleProblem``.

        Args:
            keys: one of these must have signed it; any bundle is opened if there are none.
        """
        path = directory / MANIFEST
        raw = read_manifest(directory)
        if keys:  # before anything in it is believed
            from detectors.signature import check_signature

            check_signature(directory, raw, keys)
        try:
            manifest = Manifest.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            raise BundleProblem(
                f"{path}: {where}: {first['msg']}; fit the bundle again", Refusal.SCHEMA
            ) from None
        contents = {name: _read(directory, name, digest) for name, digest in manifest.files.items()}
        for name in (GRAPH, CALIBRATION):
            if name not in contents:
                raise BundleProblem(
                    f"{path}: names no {name}; fit the bundle again", Refusal.SCHEMA
                )
        return cls(
            directory=directory,
            manifest=manifest,
            digest=f"sha256:{sha256(raw)}",
            graph=contents[GRAPH],
            calibration=_calibration(directory, contents[CALIBRATION], manifest),
        )

    def read(self, name: str) -> bytes:
        """One of the bundle's other files, verified again. Raises ``BundleProblem``."""
        if name not in self.manifest.files:
            raise BundleProblem(
                f"{self.directory / MANIFEST}: names no {name}; fit it again", Refusal.SCHEMA
            )
        return _read(self.directory, name, self.manifest.files[name])


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


def _read(directory: Path, name: str, digest: str) -> bytes:
    if Path(name).name != name or name == MANIFEST:
        raise BundleProblem(
            f"{directory / MANIFEST}: {name!r} is not a plain file name", Refusal.SCHEMA
        )
    path = directory / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleProblem(
            f"{path}: {error.strerror or error}; copy the whole bundle", Refusal.UNREADABLE
        ) from None
    if sha256(data) != digest:
        raise BundleProblem(
            f"{path}: its SHA-256 is not the manifest's; the file was changed or cut short, copy "
            "the bundle again from where it was fitted",
            Refusal.HASH,
        )
    return data


def _calibration(directory: Path, data: bytes, manifest: Manifest) -> Calibration:
    try:
        arrays = load(data)
        cells = tuple(
            Cell(arrays[f"{c}.fused"], arrays[f"{c}.quality"], arrays[f"{c}.detectors"])
            for c in range(len(manifest.model.classes))
        )
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleProblem(
            f"{directory / CALIBRATION}: {error}; fit the bundle again", Refusal.SCHEMA
        ) from None
    for cell in cells:
        if cell.detectors.shape != (len(cell), len(manifest.detectors)):
            raise BundleProblem(
                f"{directory / CALIBRATION}: {cell.detectors.shape} scores for "
                f"{len(manifest.detectors)} detectors; fit the bundle again",
                Refusal.SCHEMA,
            )
    return Calibration(cells)


def calibration_arrays(calibration: Calibration) -> dict[str, np.ndarray[Any, Any]]:
    """The content of ``calibration.safetensors``."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for c, cell in enumerate(calibration.cells):
        arrays[f"{c}.fused"] = np.ascontiguousarray(cell.fused)
        arrays[f"{c}.quality"] = np.ascontiguousarray(cell.quality)
        arrays[f"{c}.detectors"] = np.ascontiguousarray(cell.detectors)
    return arrays


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``; its ``files`` must already hold the final hashes."""
    document = json.loads(manifest.model_dump_json())
    (directory / MANIFEST).write_text(json.dumps(document, indent=2) + "\n")
