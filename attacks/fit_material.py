"""From clean images to the two splits that a guard is fitted on: shifted, attacked, added to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from attacks.campaign import (
    FAMILIES,
    FIT_EPSILONS,
    FIT_SHIFTS,
    attack_as_delivered,
    attacked_once,
    shifted,
)
from attacks.generate import prepare
from attacks.guarded import GuardedModel
from attacks.part_store import PartStore
from attacks.problem import AttackProblem
from attacks.registry import parse
from attacks.spec import Attacker, AttackSpec, Need
from attacks.work import Bench
from detectors.fit import FitProblem, FitSplit
from detectors.guard_data import FITTING, draw, split_samples
from detectors.judgement import Attacked
from detectors.samples import Samples
from models.datasets import group_digest
from models.imaging.decode import digest

Advance = Callable[[str, int, int], None]
"""Called with what is being attacked, images done, and images to do."""


@dataclass(frozen=True)
class Opponent:
    """An attacker: what it attacks, how, and how hard."""

    bench: Bench
    families: tuple[str, ...] = FAMILIES
    """As ``attacks.registry.parse`` takes them."""
    epsilons: tuple[float, ...] = FIT_EPSILONS

    def __post_init__(self) -> None:
        """Raises ``UnknownAttack`` and ``AttackProblem``: a mistake is told before any work."""
        for spec in self.specs:
            if Need.GUARD in spec.needs and self.bench.guard is None:
                raise AttackProblem(f"{spec.name} evades a guard, and this attacker knows none")
            if Need.SURROGATE in spec.needs:
                raise AttackProblem(f"{spec.name} needs a surrogate, and none can be given here")

    @property
    def specs(self) -> tuple[AttackSpec, ...]:
        """Every family at every epsilon."""
        return tuple(parse(family, e) for e in self.epsilons for family in self.families)

    def knowing(self, guard: GuardedModel, bundle: str, families: tuple[str, ...]) -> Opponent:
        """The same attacker with the guard of the bundle of that digest in hand."""
        bench = replace(self.bench, guard=guard, digest=bundle)
        return Opponent(bench, families, self.epsilons)

    def instructed(self, own: Samples) -> Opponent:
        """With what its attacks learn from images of its own, none of which it attacks."""
        specs = self.specs
        if not any(Need.IMAGES in spec.needs for spec in specs):
            return self
        device = self.bench.device
        pixels = tuple(torch.tensor(i, dtype=torch.float32, device=device) for i in own.images)
        attacker = Attacker(
            self.bench.model,
            pixels,
            torch.from_numpy(own.labels).to(device),
            self.bench.seed,
            self.bench.guard,
        )
        named = replace(self.bench, attacker="".join(digest(image) for image in own.images))
        return replace(self, bench=prepare(named, specs, attacker))

    def deliver(
        self, clean: Samples, progress: Callable[[int, int], None], store: PartStore | None
    ) -> tuple[Attacked, ...]:
        """Every family at every epsilon, as files, for judging."""
        return attack_as_delivered(
            self.bench, clean, self.families, self.epsilons, progress=progress, store=store
        )


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
