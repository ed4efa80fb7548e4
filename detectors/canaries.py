"""A bundle's canaries: files whose verdict is known, sent through the service while it runs.

A clean one must be accepted and an adversarial one held; a guard that gets one of them wrong is
not the guard that was fitted. They are files, so that decoding is a part of what is checked.
Torch-free: serving reads them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from detectors.bundle import Bundle, CellLevels, Manifest, sha256, write_manifest
from detectors.calibrate import Calibration, PValues
from detectors.manifest_file import BundleProblem, Refusal
from models.engine import Engine
from models.imaging import ImageProblem, Limits
from models.imaging.decode import decode

CANARIES = "canaries.safetensors"
MOST = 32
MOST_BYTES = 8 * 2**20
"""Most canaries of a bundle, and most bytes of one."""


class Kind(StrEnum):
    """What a canary is."""

    CLEAN = "clean"
    """Must be accepted."""
    ADVERSARIAL = "adversarial"
    """Must be flagged or rejected."""


@dataclass(frozen=True, slots=True)
class Canary:
    """One file and what it is."""

    kind: Kind
    data: bytes
    """A PNG, JPEG or DICOM file without anything of a patient but pixels."""

    def seen(self, held: bool) -> bool:
        """Whether the verdict is the one that it must get."""
        return held == (self.kind is Kind.ADVERSARIAL)


def canaries_of(bundle: Bundle) -> tuple[Canary, ...]:
    """The bundle's canaries, in order; empty for a bundle that has none. Raises
    ``BundleProblem``."""
    if CANARIES not in bundle.manifest.files:
        return ()
    try:
        arrays = load(bundle.read(CANARIES))
        found = sorted((int(name.partition(".")[0]), name) for name in arrays)
        canaries = tuple(
            Canary(Kind(name.partition(".")[2]), arrays[name].astype(np.uint8).tobytes())
            for _, name in found
        )
        if len(canaries) > MOST:
            raise ValueError(f"{len(canaries)} canaries; at most {MOST} are sent")
    except (SafetensorError, ValueError) as error:
        raise BundleProblem(
            f"{bundle.directory / CANARIES}: {error}; add them again with `lazaret bundle "
            "canaries`",
            Refusal.SCHEMA,
        ) from None
    return canaries


def as_bytes(canaries: Sequence[Canary]) -> bytes:
    """The content of ``canaries.safetensors``."""
    return save(
        {
            f"{i}.{canary.kind}": np.frombuffer(canary.data, np.uint8).copy()
            for i, canary in enumerate(canaries)
        }
    )


def held(p: PValues, levels: CellLevels) -> bool:
    """Whether an image with these p-values is flagged or rejected, on whichever route."""
    pairs = ((p.fused, levels.flag), (p.fused, levels.reject), (p.quality, levels.quality))
    return any(
        level is not None and (not math.isfinite(value) or value <= level) for value, level in pairs
    )


def judge(
    data: bytes, engine: Engine, calibration: Calibration, levels: Sequence[CellLevels]
) -> tuple[PValues, bool]:
    """One file's p-values, and whether it is held.

    Raises:
        ImageProblem: it cannot be decoded.
    """
    image = decode(data, None, Limits(MOST_BYTES, 40_000_000))
    (p,) = calibration.p_values(engine.run(image.pixels[None]))
    return p, held(p, levels[p.predicted])


def check(canaries: Sequence[Canary], engine: Engine, bundle: Bundle) -> list[str]:
    """A sentence for each canary that this bundle does not see as it must."""
    sentences = []
    for number, canary in enumerate(canaries, 1):
        try:
            p, is_held = judge(canary.data, engine, bundle.calibration, bundle.manifest.levels)
        except ImageProblem as problem:
            sentences.append(f"canary {number}: {problem.detail}")
            continue
        if not canary.seen(is_held):
            verdict = "held" if is_held else "accepted"
            sentences.append(
                f"canary {number} is {canary.kind} and is {verdict} (fused p-value {p.fused:.2g}, "
                f"quality {p.quality:.2g}); choose another file"
            )
    return sentences


def seal(directory: Path, manifest: Manifest, canaries: Sequence[Canary]) -> Manifest:
    """Write the canaries into a bundle's folder and its manifest, in place of those it had. The
    bundle's digest changes, and a signature must be made again."""
    data = as_bytes(canaries)
    (directory / CANARIES).write_bytes(data)
    sealed = manifest.model_copy(update={"files": {**manifest.files, CANARIES: sha256(data)}})
    write_manifest(directory, sealed)
    return sealed
