"""What a bundle says of samples, and the shares that evaluations count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.bundle import Bundle, levels_of
from detectors.evaluation import Estimate, Knowledge
from detectors.samples import FIELDS, Measured, Samples, fields_of, measured_of, run_graph
from detectors.statistics import bootstrap_over_groups, proportion_interval
from models.engine import READING, Readings
from models.onnx_engine import OnnxEngine

Flags = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float64]
HEADLINE_FPR = 0.01
DRAWS = 300  # of the bootstrap; more only smooths the interval's second digit


@dataclass(frozen=True, slots=True)
class Attacked:
    """An attack's delivered images, with what only the attacker knows."""

    samples: Samples
    linf: float
    success_float: float
    """NaN where float pixels were not judged."""
    knowledge: Knowledge = "unaware"


@dataclass(frozen=True, slots=True)
class Judgement:
    """Samples as the served graph reads them and the bundle's levels judge them."""

    samples: Samples
    measured: Measured
    readings: Readings
    right: Flags
    adversarial: Flags
    """Flagged or rejected by the adversarial route."""
    quality: Flags
    """Held by the quality route, which takes what looks attacked and unusual as well."""
    p: Vector
    """``float64[N]``, conformal p-values of the adversarial route; NaN where no answer came."""

    @property
    def accepted(self) -> Flags:
        """``bool[N]``."""
        return ~(self.adversarial | self.quality)


def judge(
    bundle: Bundle,
    engine: OnnxEngine,
    samples: Samples,
    progress: Callable[[int], None] = lambda _: None,
) -> Judgement:
    """Read samples with the fused graph and apply the bundle's levels."""
    fields = fields_of(engine)[1:]
    outputs = run_graph(engine, samples.images, (*READING, *fields), progress)
    readings = Readings(*outputs[: len(READING)])
    measured = measured_of((FIELDS[0], *fields), (readings.probabilities, *outputs[len(READING) :]))
    manifest = bundle.manifest
    judged = bundle.calibration.p_values(readings, samples.sources)
    routes = [levels_of(p, manifest.levels, manifest.source_levels).route(p) for p in judged]
    return Judgement(
        samples,
        measured,
        readings,
        measured.predicted == samples.labels,
        np.array([route == "adversarial" for route in routes], dtype=np.bool_),
        np.array([route == "quality" for route in routes], dtype=np.bool_),
        np.array([p.fused for p in judged]),
    )


def threshold(negative: Vector, fpr: float) -> float:
    """The score above which at most a share ``fpr`` of the negatives lies: a realised rate, for
    statements about this very test set. A deployment's threshold comes from calibration."""
    allowed = int(np.floor(len(negative) * fpr + 1e-9))
    return float(np.sort(negative)[len(negative) - 1 - allowed])


def joint_thresholds(adversarial: Vector, quality: Vector, fpr: float) -> tuple[float, float]:
    """Of each route, the score above which it holds an image, such that at most a share ``fpr`` of
    the negatives is held by either, and about as many by the one as by the other.

    Args:
        adversarial: ``float64[N]``, the negatives' scores on that route.
        quality: ``float64[N]``, the same images' on the other.
    """
    n = len(adversarial)
    allowed = int(np.floor(n * fpr + 1e-9))
    ranked = np.sort(adversarial), np.sort(quality)
    for each in range(allowed, 0, -1):
        limits = ranked[0][n - 1 - each], ranked[1][n - 1 - each]
        if ((adversarial > limits[0]) | (quality > limits[1])).sum() <= allowed:
            return float(limits[0]), float(limits[1])
    return float(ranked[0][-1]), float(ranked[1][-1])


def share(flags: Flags, groups: Sequence[str], seed: int = 0) -> Estimate:
    """A proportion; patients are drawn anew for its interval, which the exact one widens where a
    bootstrap of zero events would claim certainty."""
    if len(flags) == 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    low, high = bootstrap_over_groups(
        lambda rows: float(flags[rows].mean()), groups, n=DRAWS, seed=seed
    )
    exact = proportion_interval(int(flags.sum()), len(flags))
    return Estimate(float(flags.mean()), min(low, exact[0]), max(high, exact[1]))


@dataclass(frozen=True, slots=True)
class Fates:
    """What became of N attacked images."""

    eligible: Flags
    """``bool[N]``: diagnosed right when clean; only these count."""
    wrong: Flags
    """``bool[N]``: eligible and diagnosed wrong when attacked."""
    harmed: Flags
    """``bool[N]``: wrong and accepted at a realised clean FPR of 1 %."""
    harmed_either: Flags
    """``bool[N]``: wrong and accepted by both routes, which between them hold 1 % of clean ones."""
    harmed_served: Flags
    """``bool[N]``: wrong and accepted at the bundle's own levels, both routes."""


def fates(clean: Judgement, attacked: Judgement) -> Fates:
    """What became of ``attacked``, whose sources are among ``clean`` by key."""
    row = {key: i for i, key in enumerate(clean.samples.keys)}
    source = np.array([row[key] for key in attacked.samples.keys], dtype=np.intp)
    fused, quality = clean.readings.fused.astype(float), clean.readings.quality.astype(float)
    limit = threshold(fused, HEADLINE_FPR)
    suspicious, unusual = joint_thresholds(fused, quality, HEADLINE_FPR)
    found = attacked.readings
    wrong = clean.right[source] & ~attacked.right
    return Fates(
        clean.right[source],
        wrong,
        wrong & ~(found.fused > limit),
        wrong & ~((found.fused > suspicious) | (found.quality > unusual)),
        wrong & attacked.accepted,
    )
