"""A bundle: the directory that holds everything needed to serve one guarded model.

``manifest.json`` names every other file with its SHA-256; nothing is read before its hash fits,
and nothing in a bundle is a pickle. Torch-free: serving uses it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from detectors.calibrate import Calibration, Cell, PValues, assured_level, expected_level
from detectors.manifest_file import MANIFEST, BundleProblem, Refusal, read_manifest
from detectors.signature import check_signature
from models.spec import ModelSpec

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SCHEMA = 1
GRAPH = "guard.onnx"
CALIBRATION = "calibration.safetensors"

Alpha = Annotated[float, Field(gt=0, lt=1)]

Held = Literal["adversarial", "quality"]
"""The route that holds an image."""

UNUSUAL = 0.02
"""Quality p-value at or below which an image that looks attacked is the quality route's. It holds
no image and lets none by, it only names the alarm, so it needs no assurance: images of another
site lie here, and hardly an attack does (docs/evidence.md)."""


class Alphas(BaseModel):
    """False-positive rates that the operator accepts, per predicted class; ``quality`` over all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flag: Alpha = 0.01
    reject: Alpha = 0.001
    quality: Alpha = 0.01


class CellLevels(BaseModel):
    """What one class's calibration images can support. None: too few images for that level.

    ``flag`` and ``reject`` are assured with 95 % confidence. ``quality`` keeps to its rate on
    average: it cries no attack, and an assured level lies, where images are few, beyond the
    strangest of them, one of which may look like nothing that the model was meant for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    flag: float | None
    reject: float | None
    quality: float | None

    def route(self, p: PValues) -> Held | None:
        """The route that holds an image at these levels, None where neither does.

        An image that is far from all that the model was meant for looks attacked for that reason,
        and belongs to who looks after image quality, not to the security alarm. What is suspicious
        needs less to be called unusual than what is held for its quality alone. An image whose
        score is not a number is nobody's alarm, but not accepted either.
        """
        if not math.isfinite(p.fused):
            return "quality"
        if p.fused <= max(self.flag or 0.0, self.reject or 0.0):
            unusual = p.quality <= max(UNUSUAL, self.quality or 0.0)
            return "quality" if unusual else "adversarial"
        if self.quality is None or self.quality < p.quality < math.inf:
            return None
        return "quality"


def levels_for(cell: Cell, alphas: Alphas) -> CellLevels:
    """What one class's calibration images support at these rates."""
    n = len(cell)
    return CellLevels(
        images=n,
        flag=assured_level(n, alphas.flag),
        reject=assured_level(n, alphas.reject),
        quality=expected_level(len(cell.quality), alphas.quality),
    )


OwnLevels = tuple[CellLevels | None, ...]
"""A source's, by class; None where the class's levels serve it."""
SourceLevels = Mapping[str, OwnLevels]
"""By source."""


def source_levels_for(calibration: Calibration, alphas: Alphas) -> dict[str, OwnLevels]:
    """What the sources' own calibration images support at these rates."""
    return {
        source: tuple(None if cell is None else levels_for(cell, alphas) for cell in cells)
        for source, cells in calibration.sources.items()
    }


def levels_of(p: PValues, levels: Sequence[CellLevels], sources: SourceLevels) -> CellLevels:
    """The levels of the cell that gave ``p``."""
    own = None if p.source is None else sources[p.source][p.predicted]
    return levels[p.predicted] if own is None else own


class DetectorEntry(BaseModel):
    """One detector of the fused graph, in the order of its column in ``scores``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    parameters: dict[str, Any] = {}


class SecondStageEntry(BaseModel):
    """The second stage, if there is one (``detectors.second_stage``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    views: Annotated[int, Field(ge=1)]
    """Of an image."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Of clean images that it was fitted to look at."""
    threshold: float
    """First-stage score from which an image is looked at again."""
    channels: int
    size: tuple[int, int]
    """Of the network's input."""


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
    """Per class: the p-value at or below which a verdict is given."""
    source_levels: dict[str, OwnLevels] = {}
    """The same for sources with calibration images enough of their own: clients and PACS peers by
    the name they have at serving. None: the class's levels."""
    second_stage: SecondStageEntry | None = None
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

        def cell(prefix: str) -> Cell:
            return Cell(*(arrays[f"{prefix}.{part}"] for part in ("fused", "quality", "detectors")))

        cells = tuple(cell(str(c)) for c in range(len(manifest.model.classes)))
        sources = {
            source: tuple(
                None if level is None else cell(f"{source}.{c}") for c, level in enumerate(levels)
            )
            for source, levels in manifest.source_levels.items()
        }
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleProblem(
            f"{directory / CALIBRATION}: {error}; fit the bundle again", Refusal.SCHEMA
        ) from None
    own = (one for of in sources.values() for one in of if one is not None)
    for one in (*cells, *own):
        if one.detectors.shape != (len(one), len(manifest.detectors)):
            raise BundleProblem(
                f"{directory / CALIBRATION}: {one.detectors.shape} scores for "
                f"{len(manifest.detectors)} detectors; fit the bundle again",
                Refusal.SCHEMA,
            )
    return Calibration(cells, sources)


def calibration_arrays(calibration: Calibration) -> dict[str, np.ndarray[Any, Any]]:
    """The content of ``calibration.safetensors``."""
    cells = {str(c): cell for c, cell in enumerate(calibration.cells)}
    for source, own in calibration.sources.items():
        cells |= {f"{source}.{c}": cell for c, cell in enumerate(own) if cell is not None}
    return {
        f"{prefix}.{part}": np.ascontiguousarray(getattr(cell, part))
        for prefix, cell in cells.items()
        for part in ("fused", "quality", "detectors")
    }


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``; its ``files`` must already hold the final hashes."""
    document = json.loads(manifest.model_dump_json())
    (directory / MANIFEST).write_text(json.dumps(document, indent=2) + "\n")
