"""From clean images to the two splits that a guard is fitted on: shifted, attacked, added to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from attacks.campaign import (
    FIT_SHIFTS,
    attacked_once,
    shifted,
)
from attacks.opponent import Opponent
from attacks.part_store import PartStore
from detectors.fit import FitProblem, FitSplit
from detectors.guard_data import FITTING, draw, split_samples
from detectors.samples import Samples
from models.datasets import group_digest

Advance = Callable[[str, int, int], None]
"""Called with what is being attacked, images done, and images to do."""


@dataclass(frozen=True, slots=True)
class FitMaterial:
    """Everything that a guard is fitted and calibrated on."""

    reference: FitSplit
    fusion: FitSplit
    calibration: Samples
    """Clean images that nothing is fitted on."""
    provenance: dict[str, Any]
    """What a bundle's manifest says of it; no patient is named."""

    def __len__(self) -> int:
        return len(self.reference) + len(self.fusion) + len(self.calibration)


def clean_splits(clean: Samples, images: int, seed: int) -> dict[str, Samples]:
    """``reference`` and ``fusion`` of at most ``images`` each, and ``calibration``. Raises
    ``FitProblem``."""
    splits = split_samples(clean, seed)
    for name in FITTING:
        splits[name] = draw(splits[name], images, seed)
        if not len(splits[name]):
            raise FitProblem(f"too few patients for a {name} split; add images")
    return splits


def fit_material(
    splits: Mapping[str, Samples],
    opponents: Sequence[Opponent],
    *,
    images: int,
    seed: int,
    progress: Advance,
    added: Mapping[str, Sequence[Samples]] | None = None,
    store: PartStore | None = None,
) -> FitMaterial:
    """Shift and attack the two fitting splits.

    Args:
        splits: from ``clean_splits``.
        images: attacked in each, at most.
        added: by split, adversarial images that were made before from some of its images.
    """
    made = {}
    for split, other in zip(FITTING, reversed(FITTING), strict=True):
        clean = splits[split]
        shown = draw(clean, images, seed)
        hit: list[Samples] = []
        for opponent in opponents:
            what = f"attacking {split}" + (", knowing the guard" if opponent.bench.guard else "")
            ready = opponent.instructed(draw(splits[other], images, seed))
            hit += attacked_once(
                ready.bench,
                shown,
                ready.families,
                ready.epsilons,
                store=store,
                progress=partial(progress, what),
            )
        hit += (added or {}).get(split, ())
        benign = (clean, *(shifted(clean, name, level, seed) for name, level in FIT_SHIFTS))
        made[split] = FitSplit(benign, tuple(hit))
    return FitMaterial(
        made["reference"],
        made["fusion"],
        splits["calibration"],
        _provenance(splits, opponents, seed),
    )


def _provenance(
    splits: Mapping[str, Samples], opponents: Sequence[Opponent], seed: int
) -> dict[str, Any]:
    attacks = [
        f"{', '.join(opponent.families)} at {opponent.epsilons} grey levels, 8-bit PNG"
        + (", knowing the guard" if opponent.bench.guard else "")
        for opponent in opponents
    ]
    groups = {group for split in splits.values() for group in split.groups}
    return {
        "images": {name: len(split) for name, split in splits.items()},
        "patients": {name: len(set(split.groups)) for name, split in splits.items()},
        "attacks": "; ".join(attacks),
        "shifts": ", ".join(f"{name} {level}" for name, level in FIT_SHIFTS),
        "seed": seed,
        "groups": sorted(group_digest(group) for group in groups),
    }
