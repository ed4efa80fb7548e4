"""An old and a new guard before the same patients and attackers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from attacks.campaign import every_shift
from attacks.guarded import load_guarded
from attacks.opponent import Opponent
from attacks.part_store import PartStore
from detectors.comparison import Comparison, Side, compare
from detectors.gates import Margins
from detectors.judgement import Attacked, Fates, fates
from detectors.paired import MadeFor, PairedHarm, paired_harm
from detectors.samples import Samples
from detectors.speed import cost
from detectors.trial import Trial

MILDEST = 2
"""Severities of benign shifts that both are shown: those that an adversarial route must pass."""

Advance = Callable[[str, int, int], None]
"""Called with what is being attacked, images done, and images to do."""


def compare_guards(
    old: Trial,
    new: Trial,
    drawn: Samples,
    *,
    own: Samples,
    blind: Opponent,
    knowing: Sequence[str],
    margins: Margins,
    provenance: dict[str, Any],
    progress: Advance,
    store: PartStore | None = None,
) -> Comparison:
    """Judge both and decide. Where a null test fails, nobody is attacked.

    Args:
        drawn: test images, among those that both trials began with, to attack and to shift.
        own: the attacker's, for attacks that learn from some.
        blind: the attacker who knows the model alone.
        knowing: families of the one who knows a guard too; empty for none.
    """
    seed = blind.bench.seed
    sound = old.null_passes and new.null_passes
    shifts = every_shift(drawn, seed, mildest=MILDEST) if sound else ()
    return compare(
        Side.of(old, shifts),
        Side.of(new, shifts),
        duel(old, new, drawn, own, blind, knowing, progress, store) if sound else (),
        cost(old.bundle.graph, new.bundle.graph, drawn.images[0]),
        margins,
        provenance,
    )


def duel(
    old: Trial,
    new: Trial,
    clean: Samples,
    own: Samples,
    blind: Opponent,
    knowing: Sequence[str],
    progress: Advance,
    store: PartStore | None,
) -> tuple[PairedHarm, ...]:
    """Attack ``clean`` once for both guards, and once for each by one who knows it."""

    def delivered(opponent: Opponent, what: str) -> tuple[Attacked, ...]:
        return opponent.instructed(own).deliver(clean, partial(progress, what), store)

    def aware(trial: Trial, which: str) -> tuple[Attacked, ...]:
        guard = load_guarded(trial.bundle.directory).to(blind.bench.device)
        known = blind.knowing(guard, trial.bundle.digest, tuple(knowing))
        return delivered(known, f"attacking, knowing the {which} guard")

    def before(trial: Trial, attacked: Attacked) -> Fates:
        return fates(trial.clean, trial.judge(attacked.samples))

    def harm(for_old: Attacked, for_new: Attacked, made_for: MadeFor) -> PairedHarm:
        return paired_harm(
            for_old.samples,
            before(old, for_old),
            before(new, for_new),
            made_for=made_for,
            seed=blind.bench.seed,
        )

    harms = [harm(made, made, MadeFor.MODEL) for made in delivered(blind, "attacking the model")]
    if knowing:
        at_old, at_new = aware(old, "old"), aware(new, "new")
        harms += [harm(made, made, MadeFor.OLD_GUARD) for made in at_old]
        harms += [harm(*pair, MadeFor.EACH_GUARD) for pair in zip(at_old, at_new, strict=True)]
    return tuple(harms)
