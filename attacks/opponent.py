"""An attacker for whom a guard is fitted or before whom it is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from attacks.campaign import FAMILIES, FIT_EPSILONS, attack_as_delivered
from attacks.generate import prepare
from attacks.guarded import GuardedModel
from attacks.objective import Model
from attacks.part_store import PartStore
from attacks.problem import AttackProblem
from attacks.registry import parse
from attacks.spec import Attacker, AttackSpec, Need
from attacks.work import Bench
from detectors.judgement import Attacked
from detectors.samples import Samples
from models.imaging.decode import digest

ATTACKER_IMAGES = 64
"""Of fitting patients, as many as an attacker learns from who is to judge a guard."""


@dataclass(frozen=True)
class Opponent:
    """An attacker: what it attacks, how, and how hard."""

    bench: Bench
    families: tuple[str, ...] = FAMILIES
    """As ``attacks.registry.parse`` takes them."""
    epsilons: tuple[float, ...] = FIT_EPSILONS
    """Grey levels, for families that name none."""
    load: Callable[[str], Model] | None = None
    """Loads a surrogate by its name."""

    def __post_init__(self) -> None:
        """Raises ``UnknownAttack`` and ``AttackProblem``: a mistake is told before any work."""
        for spec in self.specs:
            if Need.GUARD in spec.needs and self.bench.guard is None:
                raise AttackProblem(f"{spec.name} evades a guard, and this attacker knows none")
            if Need.SURROGATE in spec.needs and self.load is None:
                raise AttackProblem(f"{spec.name} needs a surrogate, and none can be given here")

    @property
    def specs(self) -> tuple[AttackSpec, ...]:
        """Every family at every epsilon."""
        return tuple(parse(family, e) for e in self.epsilons for family in self.families)

    def knowing(self, guard: GuardedModel, bundle: str, families: tuple[str, ...]) -> Opponent:
        """The same attacker with the guard of the bundle of that digest in hand."""
        bench = replace(self.bench, guard=guard, digest=bundle)
        return replace(self, bench=bench, families=families)

    def instructed(self, own: Samples) -> Opponent:
        """With what its attacks learn from images of its own, none of which it attacks."""
        specs = self.specs
        if not any((s.needs | s.uses) & {Need.IMAGES, Need.SURROGATE} for s in specs):
            return self
        device = self.bench.device
        pixels = tuple(torch.tensor(i, dtype=torch.float32, device=device) for i in own.images)
        attacker = Attacker(
            self.bench.model,
            pixels,
            torch.from_numpy(own.labels).to(device),
            self.bench.seed,
            self.bench.guard,
            self.load,
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
