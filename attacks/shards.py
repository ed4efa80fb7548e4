"""An attack's results on disk: safetensors shards of perturbations and a manifest that hashes them.

``manifest.json`` holds one row an image and the SHA-256 of every other file. A shard holds what
the attack added to the sources, ``int8`` where that fits, not the sources: no patient's image is
in it, and reading a set takes the data it was made from. Within a shard, images of one shape are
stacked into one tensor named for it, ``"224x224x1-int8"``. ``files`` holds the delivered files and
``traces`` the queries of black-box attacks, where asked for. Nothing is a pickle, and nothing is
read before its hash fits.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from attacks.adversarial import AdversarialSet, Outcome, Pixels, Unguided
from attacks.container import AnyContainer, Container
from attacks.gradient import Ailment
from attacks.judge import Answers, Grid
from attacks.registry import AnySpec
from attacks.spec import AttackSpec
from attacks.work import Part, Unit
from models.imaging.decode import digest as pixel_digest

MANIFEST = "manifest.json"
SHARD_BYTES = 128 * 2**20

_Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_Index = Annotated[int, Field(ge=0)]
_Label = _Index | tuple[_Index, ...]
"""A class, or the findings that are present."""


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
    label: _Label
    target: _Label | None = None
    clean_predicted: _Label
    predicted: _Label
    clean_correct: bool
    success: bool
    accepted: bool | None = None
    """Whether the guard let the result by; null without one."""
    linf: float
    """Delivered norms in grey levels; ``l0`` in pixels."""
    l2: float
    mean_abs: float
    l0: float
    forwards: _Index
    """Forward passes: a black-box attack's queries."""
    backwards: _Index
    shard: str
    tensor: str
    row: _Index
    file: str | None = None
    """The delivered file."""
    trace: str | None = None
    """The queries, ``uint8[Q, H, W, C]``, in the order asked."""


class Finding(_Document):
    """Images whose gradients could not guide the attack."""

    ailment: Ailment
    keys: tuple[str, ...]


class Manifest(_Document):
    """``manifest.json``."""

    schema_version: Literal[2] = 2
    model: _Digest
    """Digest of the attacked model, and of its guard if there was one."""
    attack: AnySpec
    seed: int
    container: AnyContainer | None
    findings_per_label: _Index | None = None
    """Of a multi-label model: how many findings a label has."""
    attempts: bool
    """Whether failed attacks are kept; otherwise they are the unchanged source."""
    recipe: _Digest
    """Digest of everything the set follows from: code, model, attack, images, seed."""
    images: tuple[Row, ...]
    findings: tuple[Finding, ...] = ()
    files: dict[str, _Digest]


class SetWriter:
    """Writes one attack's parts as they come, holding one shard in memory."""

    def __init__(
        self, directory: Path, *, files: bool = False, shard_bytes: int = SHARD_BYTES
    ) -> None:
        """
        Args:
            directory: made if need be.
            files: write the delivered files too.
            shard_bytes: perturbations a shard holds before the next one is begun.

        Raises ``ShardProblem`` if the directory already holds a finished set.
        """
        path = directory / MANIFEST
        if path.exists():
            raise ShardProblem(f"{path}: holds a set already; choose another folder or remove it")
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._keep_files = files
        self._shard_bytes = shard_bytes
        self._stacks: dict[str, list[npt.NDArray[Any]]] = defaultdict(list)
        self._held = 0
        self._shards = 0
        self._digests: dict[str, str] = {}
        self._places: dict[int, dict[str, object]] = {}

    def add(self, unit: Unit, part: Part, container: Container | None) -> None:
        """Store one part."""
        change = _change(part.pixels, unit.pixels)
        name = f"{'x'.join(map(str, change.shape[1:]))}-{change.dtype}"
        if self._held and self._held + change.nbytes > self._shard_bytes:
            self._flush()
        for i, row in enumerate(unit.rows):
            stack = self._stacks[name]
            self._places[row] = {
                "shard": self._shard_name(),
                "tensor": name,
                "row": len(stack),
                "file": self._file(row, unit.keys[i], i, part, container),
                "trace": self._trace(row, unit.keys[i], i, part),
            }
            stack.append(change[i])
        self._held += change.nbytes

    def finish(
        self,
        outcome: Outcome,
        *,
        model: str,
        attempts: bool,
        recipe: str,
    ) -> str:
        """Write the manifest, last: a folder without one is an unfinished set.

        Returns the ``sha256:`` digest of the manifest and so, by the hashes in it, of the set.
        """
        self._flush()
        manifest = Manifest.model_validate(
            {
                "model": model,
                "attack": outcome.spec,
                "seed": outcome.seed,
                "container": None if outcome.container is None else str(outcome.container),
                "findings_per_label": outcome.labels.shape[1] if outcome.labels.ndim == 2 else None,
                "attempts": attempts,
                "recipe": recipe,
                "images": _table(outcome, self._places),
                "findings": [{"ailment": f.ailment, "keys": f.keys} for f in outcome.findings],
                "files": self._digests,
            }
        )
        raw = (json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n").encode()
        (self._directory / MANIFEST).write_bytes(raw)
        return _sha256(raw)

    def _shard_name(self) -> str:
        return f"perturbations-{self._shards:05}.safetensors"

    def _flush(self) -> None:
        if not self._stacks:
            return
        self._write(
            self._shard_name(),
            save({name: np.stack(images) for name, images in self._stacks.items()}),
        )
        self._stacks.clear()
        self._held = 0
        self._shards += 1

    def _write(self, name: str, data: bytes) -> str:
        path = self._directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        self._digests[name] = _sha256(data)
        return name

    def _file(
        self, row: int, key: str, i: int, part: Part, container: Container | None
    ) -> str | None:
        if not self._keep_files or container is None:
            return None
        data = (
            part.files[i]
            if part.files is not None
            else container.source_file(np.asarray(part.pixels[i], np.uint8))
        )
        return self._write(f"files/{_plain(row, key)}{container.suffix}", data)

    def _trace(self, row: int, key: str, i: int, part: Part) -> str | None:
        if part.queries is None:
            return None
        data = save({"queries": part.queries[i]})
        return self._write(f"traces/{_plain(row, key)}.safetensors", data)


def by_digest(images: Iterable[Grid]) -> dict[str, Grid]:
    """Sources as ``read`` takes them."""
    return {pixel_digest(image): image for image in images}


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


def read(directory: Path, sources: Mapping[str, Grid], *, partly: bool = False) -> AdversarialSet:
    """Read and verify a stored set.

    Args:
        sources: the images it was made from, by digest (``by_digest``).
        partly: leave out what was made from other images; otherwise those are a problem.

    Raises ``ShardProblem``.
    """
    manifest = read_manifest(directory)
    outcome = outcome_of(directory, manifest)
    shards = {row.shard for row in manifest.images}
    stacks = {
        name: _load(directory, name, digest)
        for name, digest in manifest.files.items()
        if name in shards
    }
    pixels: list[Pixels] = []
    for row in manifest.images:
        if partly and row.source not in sources:
            pixels.append(np.empty((0, 0, 0), np.uint8))
            continue
        try:
            change = stacks[row.shard][row.tensor][row.row]
        except (KeyError, IndexError):
            raise ShardProblem(
                f"{directory / row.shard}: has no image {row.row} in {row.tensor}, which the "
                "manifest promises; generate the set again"
            ) from None
        pixels.append(_added(directory, row, change, manifest, sources))
    whole = AdversarialSet(
        **{item.name: getattr(outcome, item.name) for item in fields(Outcome)},
        pixels=tuple(pixels),
    )
    if not partly:
        return whole
    return whole.rows(np.array([row.source in sources for row in manifest.images], dtype=np.bool_))


def outcome_of(directory: Path, manifest: Manifest) -> Outcome:
    """What the manifest says that the attack did. Raises ``ShardProblem`` if it contradicts
    itself."""
    findings = manifest.findings_per_label
    targets = [row.target for row in manifest.images]
    targeted = manifest.attack.targeted
    if any((target is not None) != targeted for target in targets):
        raise ShardProblem(f"{directory / MANIFEST}: targets do not fit the attack")
    rows = manifest.images
    outcome = Outcome(
        spec=manifest.attack,
        seed=manifest.seed,
        container=manifest.container,
        keys=tuple(row.key for row in rows),
        groups=tuple(row.group for row in rows),
        sources=tuple(row.source for row in rows),
        labels=_answers([row.label for row in rows], findings),
        targets=_answers(targets, findings) if targeted else None,
        clean_predicted=_answers([row.clean_predicted for row in rows], findings),
        predicted=_answers([row.predicted for row in rows], findings),
        accepted=None
        if any(row.accepted is None for row in rows)
        else np.array([row.accepted for row in rows], dtype=np.bool_),
        linf=np.array([row.linf for row in rows], dtype=np.float32),
        l2=np.array([row.l2 for row in rows], dtype=np.float32),
        mean_abs=np.array([row.mean_abs for row in rows], dtype=np.float32),
        l0=np.array([row.l0 for row in rows], dtype=np.float32),
        forwards=np.array([row.forwards for row in rows], dtype=np.int64),
        backwards=np.array([row.backwards for row in rows], dtype=np.int64),
        findings=tuple(Unguided(f.ailment, f.keys) for f in manifest.findings),
    )
    stated = [(row.clean_correct, row.success) for row in rows]
    derived = zip(outcome.clean_correct.tolist(), outcome.success.tolist(), strict=True)
    if stated != list(derived):
        raise ShardProblem(
            f"{directory / MANIFEST}: a success is not what its predictions say; generate the set "
            "again"
        )
    return outcome


def _change(pixels: Pixels, sources: Grid) -> npt.NDArray[Any]:
    if pixels.dtype == np.float32:
        return pixels  # nothing is on a grid: kept as it is
    change = pixels.astype(np.int16) - sources
    small = change.min() >= -128 and change.max() <= 127
    return change.astype(np.int8) if small else change


def _added(
    directory: Path,
    row: Row,
    change: npt.NDArray[Any],
    manifest: Manifest,
    sources: Mapping[str, Grid],
) -> Pixels:
    source = sources.get(row.source)
    if source is None:
        raise ShardProblem(
            f"{directory}: made from an image, {row.key}, that the data at hand does not have; "
            "read it with the data that it was made from"
        )
    expected = (np.float32,) if manifest.container is None else (np.int8, np.int16)
    if change.dtype not in expected or change.shape != source.shape:
        raise ShardProblem(
            f"{directory / row.shard}: {row.tensor} holds {change.dtype}{list(change.shape)}, "
            f"which does not fit {row.key}; generate the set again"
        )
    if manifest.container is None:
        return np.asarray(change, np.float32)
    moved = source.astype(np.int32) + change
    if moved.min() < 0 or moved.max() > 255:
        raise ShardProblem(
            f"{directory / row.shard}: {row.key} leaves the grey range; generate the set again"
        )
    return np.asarray(moved, np.uint8)


def _table(outcome: Outcome, places: Mapping[int, Mapping[str, object]]) -> list[dict[str, object]]:
    clean_correct, success = outcome.clean_correct, outcome.success
    return [
        {
            "key": outcome.keys[i],
            "group": outcome.groups[i],
            "source": outcome.sources[i],
            "label": _label(outcome.labels[i]),
            "target": None if outcome.targets is None else _label(outcome.targets[i]),
            "clean_predicted": _label(outcome.clean_predicted[i]),
            "predicted": _label(outcome.predicted[i]),
            "clean_correct": bool(clean_correct[i]),
            "success": bool(success[i]),
            "accepted": None if outcome.accepted is None else bool(outcome.accepted[i]),
            "linf": float(outcome.linf[i]),
            "l2": float(outcome.l2[i]),
            "mean_abs": float(outcome.mean_abs[i]),
            "l0": float(outcome.l0[i]),
            "forwards": int(outcome.forwards[i]),
            "backwards": int(outcome.backwards[i]),
            **places[i],
        }
        for i in range(len(outcome))
    ]


def _label(answer: Any) -> int | tuple[int, ...]:
    if np.ndim(answer):
        return tuple(np.flatnonzero(answer).tolist())
    return int(answer)


def _answers(labels: Iterable[Any], findings: int | None) -> Answers:
    if findings is None:
        return np.array(list(labels), dtype=np.int64)
    rows = [np.isin(np.arange(findings), present) for present in labels]
    return np.array(rows, dtype=np.bool_).reshape(-1, findings)


def _plain(row: int, key: str) -> str:
    """A file name that no key can make surprising."""
    return f"{row:05}-{re.sub(r'[^A-Za-z0-9._-]+', '_', Path(key).stem)[:80].lstrip('.')}"


def _load(directory: Path, name: str, digest: str) -> dict[str, npt.NDArray[Any]]:
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
        arrays: dict[str, npt.NDArray[Any]] = load(data)
    except SafetensorError as error:
        raise ShardProblem(f"{path}: {error}; generate the set again") from None
    return arrays


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def recipe_of(spec: AttackSpec, unit_digests: Iterable[str]) -> str:
    """What a set follows from, as one digest."""
    content = "\n".join([spec.title, *unit_digests]).encode()
    return _sha256(content)
