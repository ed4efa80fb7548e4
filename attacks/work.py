"""A unit of work: one attack on a few images of one size, from pixels to judged files.

Units are cut from the image list alone, run on one thread each and stored whole. What comes out
therefore does not depend on how many workers there are, which of them is asked, or when.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load, save
from torch import Tensor

from attacks.access import Access
from attacks.ball import Norm
from attacks.container import Container
from attacks.gradient import Ailment, GradientFinding, refuse
from attacks.guarded import GuardedModel
from attacks.judge import Answer, Answers, Grid, Judge, agree
from attacks.objective import Model
from attacks.problem import AttackProblem
from attacks.spec import AttackSpec, Kind, Need, Scene, carry_out
from models.imaging.decode import digest

UNIT = {"cpu": 8, "cuda": 256}
"""Images in a unit. On a CPU larger batches are no faster and lose more when killed; on a GPU the
launches take the time, whatever the batch."""

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

# A smallest change found in float mostly rounds back to where it was. These multiples of it are
# tried in turn, and the first that still fools the model as a file is sent.
MULTIPLES = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


def image_seed(seed: int, key: str) -> int:
    """The seed of one image: the same whatever else is attacked, in whatever order or batch."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big")


_OF_GUARDS = ("bpda.py", "guarded.py", "guard_aware")
"""Files and a folder of source that no attack runs that knows no guard."""


@cache
def code_digest(*, knowing: bool) -> str:
    """Of the attacks' own source and torch's version: results of other code are never reused.

    Args:
        knowing: with the source that they alone run who know a guard.
    """
    content = hashlib.sha256(torch.__version__.encode())
    here = Path(__file__).parent
    for path in sorted(here.rglob("*.py")):
        if knowing or path.relative_to(here).parts[0] not in _OF_GUARDS:
            content.update(path.read_bytes())
    return content.hexdigest()


@dataclass(frozen=True)
class Bench:
    """Everything a worker needs but the images; shipped to it once."""

    model: Model
    digest: str
    """``sha256:`` of the attacked model, and of the guard if there is one."""
    judge: Judge
    seed: int = 0
    container: Container | None = None
    """None: float pixels, which no file can carry."""
    attempts: bool = False
    """Keep what failed attacks made; otherwise a failure is the unchanged source."""
    keep_queries: bool = False
    guard: GuardedModel | None = None
    prepared: Mapping[str, Any] = field(default_factory=dict)
    """By the spec's title: what its ``prepare`` returned."""
    attacker: str = ""
    """Digest of the attacker's own images."""
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Unit:
    """Some images of one size, and one attack."""

    spec: AttackSpec
    rows: tuple[int, ...]
    """Places in the image list."""
    keys: tuple[str, ...]
    pixels: Grid
    """``uint8[n, H, W, C]``."""
    labels: Answers
    """``int64[n]``; of a multi-label model ``bool[n, L]``."""
    targets: Answers | None


@dataclass(frozen=True, slots=True)
class Part:
    """What came out of a unit, image by image."""

    pixels: npt.NDArray[np.uint8] | Floats
    """``[n, H, W, C]`` as decoded from the delivered files, or float without a container."""
    clean_predicted: Answers
    predicted: Answers
    accepted: npt.NDArray[np.bool_] | None
    """``bool[n]``: the guard let the result by; None without one."""
    linf: Floats
    """``float32[n]`` in grey levels; ``l2`` and ``mean_abs`` likewise, ``l0`` in pixels."""
    l2: Floats
    mean_abs: Floats
    l0: Floats
    forwards: Counts
    """``int64[n]``: forward passes, which are a black-box attack's queries."""
    backwards: Counts
    findings: Mapping[Ailment, tuple[int, ...]]
    """Places in the unit."""
    files: tuple[bytes, ...] | None
    """The delivered files, where pixels alone do not give them back."""
    queries: tuple[Grid, ...] | None
    """``uint8[Q, H, W, C]`` each, if kept."""

    def to_bytes(self) -> bytes:
        """As safetensors."""
        arrays: dict[str, np.ndarray[Any, Any]] = {
            name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS
        }
        if self.accepted is not None:
            arrays["accepted"] = self.accepted
        for i, file in enumerate(self.files or ()):
            arrays[f"file.{i}"] = np.frombuffer(file, np.uint8)
        for i, asked in enumerate(self.queries or ()):
            arrays[f"queries.{i}"] = asked
        return save(arrays, {"findings": json.dumps(self.findings, sort_keys=True)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Part:
        """The reverse of ``to_bytes``. Raises what safetensors and JSON raise."""
        arrays = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        findings = json.loads(header["__metadata__"]["findings"])
        n = len(arrays["linf"])
        return cls(
            **{name: arrays[name] for name in _ARRAYS},
            accepted=arrays.get("accepted"),
            findings={Ailment(name): tuple(rows) for name, rows in findings.items()},
            files=tuple(arrays[f"file.{i}"].tobytes() for i in range(n))
            if "file.0" in arrays
            else None,
            queries=tuple(arrays[f"queries.{i}"] for i in range(n))
            if "queries.0" in arrays
            else None,
        )


_ARRAYS = (
    "pixels",
    "clean_predicted",
    "predicted",
    "linf",
    "l2",
    "mean_abs",
    "l0",
    "forwards",
    "backwards",
)


def cut(
    specs: Sequence[AttackSpec],
    images: Sequence[Grid],
    labels: Answers,
    keys: Sequence[str],
    targets: Answers | None,
    size: int,
) -> Iterator[Unit]:
    """Every spec's units, spec by spec, images of one shape together in their order."""
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, image in enumerate(images):
        by_shape[image.shape].append(i)
    for spec in specs:
        for rows in by_shape.values():
            for start in range(0, len(rows), size):
                chosen = rows[start : start + size]
                yield Unit(
                    spec,
                    tuple(chosen),
                    tuple(keys[i] for i in chosen),
                    np.stack([images[i] for i in chosen]),
                    labels[chosen],
                    targets[chosen] if targets is not None and spec.targeted else None,
                )


def unit_digest(bench: Bench, unit: Unit) -> str:
    """64 hex digits that name the unit's result before it is made."""
    has = unit.spec.needs | unit.spec.uses
    learned = has & {Need.IMAGES, Need.SURROGATE, Need.GUARD}
    document = {
        "code": code_digest(knowing=bench.guard is not None),
        "model": bench.digest,
        "attacker": bench.attacker if learned else "",
        "spec": unit.spec.model_dump(mode="json"),
        "seed": bench.seed,
        "container": None if bench.container is None else str(bench.container),
        "options": [bench.attempts, bench.keep_queries, bench.device.partition(":")[0]],
        "keys": unit.keys,
        "sources": [digest(image) for image in unit.pixels],
        "labels": unit.labels.tolist(),
        "targets": None if unit.targets is None else unit.targets.tolist(),
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def attack_unit(bench: Bench, unit: Unit) -> Part:
    """Attack, deliver, decode and judge one unit.

    Raises ``GradientProblem`` if the model has no gradient at all, ``AttackProblem`` for logits
    that are not finite.
    """
    spec, n = unit.spec, len(unit.rows)
    baseline, source_files = _as_sent(bench, unit, unit.pixels.astype(np.float32), None)
    clean = _ask(bench, baseline, unit)
    truth = clean.predicted if unit.labels.ndim == 2 else unit.labels
    aim = unit.targets if unit.targets is not None else truth
    findings: dict[Ailment, set[int]] = defaultdict(set)

    def on_finding(finding: GradientFinding) -> None:
        if finding.ailment is Ailment.NONE:
            refuse(finding)
        findings[finding.ailment].update(finding.rows)

    access = _access(bench, spec, n)
    scene = Scene(
        access,
        torch.from_numpy(unit.pixels).to(bench.device).float(),
        torch.from_numpy(aim).to(bench.device),
        [image_seed(bench.seed, key) for key in unit.keys],
        on_finding,
        bench.guard,
        bench.prepared.get(spec.title),
    )
    predicted = torch.from_numpy(clean.predicted).to(bench.device)
    floats = carry_out(spec, scene, predicted=predicted).cpu().numpy()
    pixels, files, answer = _sent(bench, unit, floats, truth, access)
    failed = ~_won(answer.predicted, truth, unit.targets) | ~agree(clean.predicted, truth)
    if not bench.attempts and failed.any():
        pixels[failed] = baseline[failed]
        files = _mixed(files, source_files, failed)
        answer = Answer(
            _where(failed, clean.predicted, answer.predicted),
            None
            if answer.accepted is None or clean.accepted is None
            else np.where(failed, clean.accepted, answer.accepted),
        )
    change = pixels.astype(np.float64) - baseline
    flat = np.abs(change).reshape(n, -1)
    return Part(
        pixels=pixels,
        clean_predicted=clean.predicted,
        predicted=answer.predicted,
        accepted=answer.accepted,
        linf=flat.max(axis=1).astype(np.float32),
        l2=np.sqrt(np.square(flat).sum(axis=1)).astype(np.float32),
        mean_abs=flat.mean(axis=1).astype(np.float32),
        l0=(change != 0).any(axis=3).sum(axis=(1, 2)).astype(np.float32),
        forwards=access.forwards.numpy(),
        backwards=access.backwards.numpy(),
        findings={ailment: tuple(sorted(rows)) for ailment, rows in sorted(findings.items())},
        files=files,
        queries=None
        if access.queries is None
        else tuple(
            np.stack(asked) if asked else np.empty((0, *unit.pixels.shape[1:]), np.uint8)
            for asked in access.queries
        ),
    )


def _access(bench: Bench, spec: AttackSpec, images: int) -> Access:
    asks = Need.GRADIENTS not in spec.needs
    container, model = bench.container, bench.model
    if container is not None and not container.lossless and not asks:

        def through(pixels: Tensor) -> Tensor:
            return bench.model(container.through(pixels))

        model = through
    return Access(
        model,
        images,
        round_queries=container.query if container is not None and asks else None,
        judge=None if bench.guard is None else bench.guard.judge,
        keep_queries=bench.keep_queries and asks,
    )


def _as_sent(
    bench: Bench, unit: Unit, floats: Floats, spec: AttackSpec | None
) -> tuple[npt.NDArray[np.uint8] | Floats, tuple[bytes, ...] | None]:
    """Decoded pixels and files; of the sources where no spec is given."""
    if bench.container is None:
        return floats.copy(), None
    made = [
        bench.container.deliver(
            image,
            source,
            epsilon=None if spec is None else spec.epsilon,
            norm=Norm.LINF if spec is None else spec.norm,
        )
        for image, source in zip(floats, unit.pixels, strict=True)
    ]
    keeps = not bench.container.plain
    return (
        np.stack([item.pixels for item in made]),
        tuple(item.file for item in made) if keeps else None,
    )


def _sent(
    bench: Bench, unit: Unit, floats: Floats, truth: Answers, access: Access
) -> tuple[npt.NDArray[np.uint8] | Floats, tuple[bytes, ...] | None, Answer]:
    pixels, files = _as_sent(bench, unit, floats, unit.spec)
    answer = _ask(bench, pixels, unit)
    if unit.spec.kind is not Kind.MINIMUM or bench.container is None:
        return pixels, files, answer
    sources = unit.pixels.astype(np.float32)
    found = (floats != sources).reshape(len(floats), -1).any(axis=1)
    for multiple in MULTIPLES[1:]:
        pending = found & ~_won(answer.predicted, truth, unit.targets)
        if not pending.any():
            break
        further = np.clip(sources + np.float32(multiple) * (floats - sources), 0, 255)
        tried, tried_files = _as_sent(bench, unit, further, unit.spec)
        new = _ask(bench, tried, unit)
        access.forwards[torch.from_numpy(pending)] += 1  # the attacker looks before sending
        better = pending & _won(new.predicted, truth, unit.targets)
        pixels[better] = tried[better]
        files = _mixed(files, tried_files, better)
        answer = Answer(
            _where(better, new.predicted, answer.predicted),
            None
            if answer.accepted is None or new.accepted is None
            else np.where(better, new.accepted, answer.accepted),
        )
    return pixels, files, answer


def _ask(bench: Bench, pixels: npt.NDArray[np.uint8] | Floats, unit: Unit) -> Answer:
    try:
        return bench.judge.ask(pixels)
    except AttackProblem as error:
        raise AttackProblem(f"{unit.keys[0]} and its batch: {error}") from None


def _won(answers: Answers, truth: Answers, targets: Answers | None) -> npt.NDArray[np.bool_]:
    return ~agree(answers, truth) if targets is None else agree(answers, targets)


def _where(chosen: npt.NDArray[np.bool_], one: Answers, other: Answers) -> Answers:
    mask = chosen[:, None] if one.ndim == 2 else chosen
    picked: Answers = np.where(mask, one, other)
    return picked


def _mixed(
    files: tuple[bytes, ...] | None,
    others: tuple[bytes, ...] | None,
    chosen: npt.NDArray[np.bool_],
) -> tuple[bytes, ...] | None:
    if files is None or others is None:
        return files
    return tuple(
        other if take else file for file, other, take in zip(files, others, chosen, strict=True)
    )
