"""The attacks of Ma et al. (2021) over their epsilons, as the model answers them.

Pixels stay in float, as in the paper; from half a grey level on the same image is also rounded to
the whole levels of an 8-bit file. Only answers and activations are kept, so that the whole grid
fits into a small cache.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from attacks.campaign import FAMILIES
from attacks.generate import bench_of
from attacks.gradient import Ailment, GradientFinding, refuse
from attacks.objective import Model
from attacks.part_store import write_whole
from attacks.registry import named
from attacks.spec import AttackSpec, Scene, carry_out
from attacks.work import UNIT, Unit, cut, image_seed, unit_digest
from detectors.reproduction.reading import read
from detectors.samples import FIELDS, Measured, Samples, joined
from models.diagnostic import DiagnosticModel

TENTHS = tuple(i / 10 for i in range(1, 11))
GRID: Mapping[str, tuple[float, ...]] = {
    "fgsm": (0.1, 0.3, 0.5, 0.7, 0.9, *(float(i) for i in range(1, 11))),
    "bim": TENTHS,
    "pgd": TENTHS,
    "cw_linf": TENTHS,
}
"""Grey levels by attack (released code; CW's as for its multi-class tasks)."""
QUICK: Mapping[str, tuple[float, ...]] = {
    "fgsm": (0.1, 0.3, 0.5, 1.0, 2.0, 4.0, 8.0),
    "bim": (0.3, 0.5, 1.0),
    "pgd": (0.3, 0.5, 1.0),
    "cw_linf": (0.3, 0.5, 1.0),
}
DETECTED_AT = 1.0
"""The epsilon of the paper's detection experiments, in grey levels."""
FIRST_FILE = 0.5
"""The least epsilon that rounding to whole grey levels can keep."""


def grid(epsilons: Mapping[str, Sequence[float]] = GRID) -> tuple[AttackSpec, ...]:
    """The specs, attack by attack, with the released code's steps, starts and labels."""
    return tuple(named(name, epsilon) for name, values in epsilons.items() for epsilon in values)


def detection_attacks() -> tuple[AttackSpec, ...]:
    """The four attacks that detectors are tried on."""
    return tuple(named(name, DETECTED_AT) for name in FAMILIES)


@dataclass(frozen=True, slots=True)
class Swept:
    """One attack on N images as the model answers them, rows as the images."""

    spec: AttackSpec
    floats: Measured
    files: Measured | None
    """None below ``FIRST_FILE``."""


Answered = tuple[Measured, Measured | None]
"""One image's answers: as float pixels, and as a file where there is one."""


def sweep(
    model: DiagnosticModel,
    attacked: Model,
    digest: str,
    clean: Samples,
    specs: Sequence[AttackSpec],
    *,
    seed: int = 0,
    device: str = "cpu",
    cache: Path | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Swept, ...]:
    """Every spec on every image, whether it succeeds or not.

    Args:
        attacked: ``models.load.victim_of(model)``, which attacks differentiate.
        digest: ``models.load.model_digest(model)``.
        cache: folder of finished parts; what is in there is not made again.
        progress: called with the number of images just attacked.
    """
    bench = bench_of(attacked, digest=digest, seed=seed, container=None, device=device)
    size = UNIT["cpu" if device == "cpu" else "cuda"]
    results = []
    for spec in specs:
        found: dict[int, Answered] = {}
        missing: dict[tuple[int, ...], list[tuple[Unit, Path | None]]] = defaultdict(list)
        # one image a part: a run with more images goes on from one with fewer
        for unit in cut([spec], clean.images, clean.labels, clean.keys, None, 1):
            name = hashlib.sha256(f"measured:{unit_digest(bench, unit)}".encode()).hexdigest()
            path = None if cache is None else cache / name[:2] / f"{name}.safetensors"
            stored = None if path is None else _stored(path)
            if stored is None:
                missing[unit.pixels.shape].append((unit, path))
            else:
                found[unit.rows[0]] = stored
                progress(1)
        for units in missing.values():
            for start in range(0, len(units), size):
                chosen = units[start : start + size]
                rows = [unit.rows[0] for unit, _ in chosen]
                pixels = strike(
                    attacked,
                    spec,
                    np.concatenate([unit.pixels for unit, _ in chosen]),
                    clean.labels[rows],
                    [clean.keys[row] for row in rows],
                    seed,
                    device,
                )
                floats = read(model, list(pixels))
                files = read(model, list(_rounded(pixels))) if spec.budget >= FIRST_FILE else None
                for i, (unit, path) in enumerate(chosen):
                    one = np.array([i])
                    answered = floats.rows(one), None if files is None else files.rows(one)
                    found[unit.rows[0]] = answered
                    if path is not None:
                        write_whole(path, _as_bytes(*answered))
                progress(len(chosen))
        answers = [found[row] for row in range(len(clean))]
        files_ = [one for _, one in answers if one is not None]
        results.append(
            Swept(spec, joined([one for one, _ in answers]), joined(files_) if files_ else None)
        )
    return tuple(results)


def strike(
    attacked: Model,
    spec: AttackSpec,
    pixels: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64] | npt.NDArray[np.bool_],
    keys: Sequence[str],
    seed: int = 0,
    device: str = "cpu",
) -> npt.NDArray[np.float32]:
    """``float32[N, H, W, C]``: images of one size attacked, the same for the same key and seed."""

    def on_finding(finding: GradientFinding) -> None:
        # a gradient that is zero on some image weakens the attack there, which the tables show
        if finding.ailment is Ailment.NONE:
            refuse(finding)

    scene = Scene(
        attacked,
        torch.from_numpy(pixels).to(device).float(),
        torch.from_numpy(labels).to(device),
        [image_seed(seed, key) for key in keys],
        on_finding,
    )
    made: npt.NDArray[np.float32] = carry_out(spec, scene).cpu().numpy()
    return made


def _rounded(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    rounded: npt.NDArray[np.uint8] = np.rint(pixels).clip(0, 255).astype(np.uint8)
    return rounded


def _as_bytes(floats: Measured, files: Measured | None) -> bytes:
    arrays = {f"floats.{field}": getattr(floats, field) for field in FIELDS}
    if files is not None:
        arrays |= {f"files.{field}": getattr(files, field) for field in FIELDS}
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def _stored(path: Path) -> Answered | None:
    try:
        arrays = load(path.read_bytes())
        floats = Measured(*(arrays[f"floats.{field}"] for field in FIELDS))
        has_files = f"files.{FIELDS[0]}" in arrays
        files = Measured(*(arrays[f"files.{field}"] for field in FIELDS)) if has_files else None
    except (OSError, SafetensorError, KeyError, ValueError):
        return None  # absent, or cut short by a full disk: it is made again
    return floats, files
