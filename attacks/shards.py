"""An ``AdversarialSet`` on disk: safetensors shards and a manifest that hashes them.

``manifest.json`` holds one row an image and the SHA-256 of every shard. Within a shard, images of
one shape are stacked into one tensor named for it, ``"224x224x1"``. Nothing is a pickle, and
nothing is read before its hash fits.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from attacks.adversarial import AdversarialSet, Unguided
from attacks.deliver import Container, Pixels
from attacks.gradient import Ailment
from attacks.registry import AnySpec

MANIFEST = "manifest.json"
SHARD_BYTES = 128 * 2**20

_Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_Index = Annotated[int, Field(ge=0)]


class ShardProblem(Exception):
    """A stored set that must not be used. The message says which file and what to do."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Row(_Document):
    """One adversarial image: where it came from, what it did, where it lies."""

    key: str
    group: str
    source: _Digest
    """Digest of the source image's shape and pixels."""
    label: _Index
    target: _Index | None = None
    clean_predicted: _Index
    predicted: _Index
    clean_correct: bool
    success: bool
    linf: float
    """Delivered norms in grey levels."""
    l2: float
    mean_abs: float
    shard: str
    tensor: str
    row: _Index


class Finding(_Document):
    """Images whose gradients could not guide the attack."""

    ailment: Ailment
    keys: tuple[str, ...]


class Manifest(_Document):
    """``manifest.json``."""

    schema_version: Literal[1] = 1
    model: _Digest
    """Digest of the attacked model."""
    attack: AnySpec
    seed: int
    container: Container | None
    images: tuple[Row, ...]
    findings: tuple[Finding, ...] = ()
    files: dict[str, _Digest]


def write(
    directory: Path, adversarial: AdversarialSet, model: str, shard_bytes: int = SHARD_BYTES
) -> str:
    """Store a set in ``directory``, which is made if need be.

    Args:
        model: ``sha256:`` digest of the attacked model.
        shard_bytes: pixels a shard holds before the next one is begun.

    Returns the ``sha256:`` digest of the manifest and so, by the hashes in it, of the whole set.
    Raises ``ShardProblem`` if the directory already holds one.
    """
    path = directory / MANIFEST
    if path.exists():
        raise ShardProblem(f"{path}: holds a set already; choose another folder or remove it")
    directory.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    places: list[tuple[str, str, int]] = []
    for number, rows in enumerate(_shards(adversarial, shard_bytes)):
        name = f"pixels-{number:05}.safetensors"
        stacks: dict[str, list[Pixels]] = defaultdict(list)
        for i in rows:
            tensor = "x".join(map(str, adversarial.pixels[i].shape))
            places.append((name, tensor, len(stacks[tensor])))
            stacks[tensor].append(adversarial.pixels[i])
        data = save({tensor: np.stack(images) for tensor, images in stacks.items()})
        (directory / name).write_bytes(data)
        files[name] = _sha256(data)
    manifest = Manifest.model_validate(
        {
            "model": model,
            "attack": adversarial.spec.model_dump(),
            "seed": adversarial.seed,
            "container": adversarial.container,
            "images": _table(adversarial, places),
            "findings": [{"ailment": f.ailment, "keys": f.keys} for f in adversarial.findings],
            "files": files,
        }
    )
    raw = (json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n").encode()
    path.write_bytes(raw)  # last: a set without a manifest is an unfinished one
    return _sha256(raw)


def read_manifest(directory: Path) -> Manifest:
    """The manifest alone, shards unread. Raises ``ShardProblem``."""
    path = directory / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ShardProblem(
            f"{path}: {error.strerror or error}; a set is a folder that `lazaret attack` finished"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ShardProblem(f"{path}: {where}: {first['msg']}; generate the set again") from None


def read(directory: Path) -> AdversarialSet:
    """Read and verify a stored set. Raises ``ShardProblem``."""
    manifest = read_manifest(directory)
    stacks = {name: _load(directory, name, digest) for name, digest in manifest.files.items()}
    dtype = np.dtype(np.float32 if manifest.container is None else np.uint8)
    rows = manifest.images
    pixels: list[Pixels] = []
    for row in rows:
        try:
            image = stacks[row.shard][row.tensor][row.row]
        except (KeyError, IndexError):
            raise ShardProblem(
                f"{directory / row.shard}: has no image {row.row} in {row.tensor}, which the "
                "manifest promises; generate the set again"
            ) from None
        if image.dtype != dtype or image.ndim != 3:
            raise ShardProblem(
                f"{directory / row.shard}: {row.tensor} holds {image.dtype}, not {dtype} images; "
                "generate the set again"
            )
        pixels.append(image)
    targeted = manifest.attack.targeted
    if any((row.target is not None) != targeted for row in rows):
        raise ShardProblem(f"{directory / MANIFEST}: targets do not fit the attack")
    adversarial = AdversarialSet(
        spec=manifest.attack,
        seed=manifest.seed,
        container=manifest.container,
        keys=tuple(row.key for row in rows),
        groups=tuple(row.group for row in rows),
        sources=tuple(row.source for row in rows),
        pixels=tuple(pixels),
        labels=np.array([row.label for row in rows], dtype=np.int64),
        targets=np.array([row.target for row in rows], dtype=np.int64) if targeted else None,
        clean_predicted=np.array([row.clean_predicted for row in rows], dtype=np.int64),
        predicted=np.array([row.predicted for row in rows], dtype=np.int64),
        linf=np.array([row.linf for row in rows], dtype=np.float32),
        l2=np.array([row.l2 for row in rows], dtype=np.float32),
        mean_abs=np.array([row.mean_abs for row in rows], dtype=np.float32),
        findings=tuple(Unguided(f.ailment, f.keys) for f in manifest.findings),
    )
    stated = [(row.clean_correct, row.success) for row in rows]
    derived = zip(adversarial.clean_correct.tolist(), adversarial.success.tolist(), strict=True)
    if stated != list(derived):
        raise ShardProblem(
            f"{directory / MANIFEST}: a success is not what its predictions say; generate the set "
            "again"
        )
    return adversarial


def _shards(adversarial: AdversarialSet, shard_bytes: int) -> Iterator[list[int]]:
    rows: list[int] = []
    held = 0
    for i, image in enumerate(adversarial.pixels):
        if rows and held + image.nbytes > shard_bytes:
            yield rows
            rows, held = [], 0
        rows.append(i)
        held += image.nbytes
    if rows:
        yield rows


def _table(
    adversarial: AdversarialSet, places: list[tuple[str, str, int]]
) -> list[dict[str, object]]:
    clean_correct, success = adversarial.clean_correct, adversarial.success
    return [
        {
            "key": adversarial.keys[i],
            "group": adversarial.groups[i],
            "source": adversarial.sources[i],
            "label": int(adversarial.labels[i]),
            "target": None if adversarial.targets is None else int(adversarial.targets[i]),
            "clean_predicted": int(adversarial.clean_predicted[i]),
            "predicted": int(adversarial.predicted[i]),
            "clean_correct": bool(clean_correct[i]),
            "success": bool(success[i]),
            "linf": float(adversarial.linf[i]),
            "l2": float(adversarial.l2[i]),
            "mean_abs": float(adversarial.mean_abs[i]),
            "shard": shard,
            "tensor": tensor,
            "row": row,
        }
        for i, (shard, tensor, row) in enumerate(places)
    ]


def _load(directory: Path, name: str, digest: str) -> dict[str, np.ndarray[tuple[int, ...], Any]]:
    if Path(name).name != name or name == MANIFEST:
        raise ShardProblem(f"{directory / MANIFEST}: {name!r} is not a plain file name")
    path = directory / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ShardProblem(f"{path}: {error.strerror or error}; copy the whole folder") from None
    if _sha256(data) != digest:
        raise ShardProblem(
            f"{path}: its SHA-256 is not the manifest's; the file was changed or cut short, copy "
            "it again"
        )
    try:
        arrays: dict[str, np.ndarray[tuple[int, ...], Any]] = load(data)
    except SafetensorError as error:
        raise ShardProblem(f"{path}: {error}; generate the set again") from None
    return arrays


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
