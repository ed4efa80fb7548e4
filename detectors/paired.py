"""Two guards before the same patients: what each lets by, and how sure we are of the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from detectors.evaluation import Estimate
from detectors.judgement import DRAWS, Fates, Flags, share
from detectors.samples import Samples
from detectors.statistics import bootstrap_over_groups, proportion_interval


class MadeFor(StrEnum):
    """Whom an attack was made to fool. Old and new guard stand before the same model."""

    MODEL = "the model"
    """Both guards judge the same images."""
    OLD_GUARD = "the old guard"
    """Both guards judge the same images, made by an attacker who knows the old guard."""
    EACH_GUARD = "each guard"
    """Each guard judges what an attacker who knows it made of the same sources."""


@dataclass(frozen=True, slots=True)
class PairedHarm:
    """Undetected harm of one attack before the old and the new guard, source by source."""

    attack: str
    epsilon: float
    """Grey levels; 0 for attacks without a budget."""
    made_for: MadeFor
    images: int
    """Source images that were diagnosed right."""
    patients: int
    old: Estimate
    """At a realised clean FPR of 1 %, so that neither guard gains by flagging more."""
    new: Estimate
    difference: Estimate
    """New less old, over the same patients."""
    old_served: Estimate
    """At each bundle's own levels, both routes."""
    new_served: Estimate
    difference_served: Estimate


def paired_harm(
    samples: Samples, old: Fates, new: Fates, *, made_for: MadeFor, seed: int = 0
) -> PairedHarm:
    """Compare the fates of the same sources, in one order, named by either guard's ``samples``."""
    rows = np.flatnonzero(old.eligible & new.eligible)
    groups = [samples.groups[i] for i in rows]
    return PairedHarm(
        attack=samples.origin,
        epsilon=samples.level,
        made_for=made_for,
        images=len(rows),
        patients=len(set(groups)),
        old=share(old.harmed[rows], groups, seed),
        new=share(new.harmed[rows], groups, seed),
        difference=difference(old.harmed[rows], new.harmed[rows], groups, seed),
        old_served=share(old.harmed_served[rows], groups, seed),
        new_served=share(new.harmed_served[rows], groups, seed),
        difference_served=difference(
            old.harmed_served[rows], new.harmed_served[rows], groups, seed
        ),
    )


def difference(old: Flags, new: Flags, groups: Sequence[str], seed: int = 0) -> Estimate:
    """``mean(new) - mean(old)``, with whole patients drawn anew for its interval.

    Where no image fares differently a bootstrap would claim certainty; the interval is then as
    wide as no event among so many images allows (Clopper-Pearson), either way.
    """
    if len(groups) == 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    change = new.astype(np.int8) - old.astype(np.int8)
    if not change.any():
        _, unseen = proportion_interval(0, len(groups))
        return Estimate(0.0, -unseen, unseen)
    low, high = bootstrap_over_groups(
        lambda rows: float(change[rows].mean()), groups, n=DRAWS, seed=seed
    )
    return Estimate(float(change.mean()), low, high)
