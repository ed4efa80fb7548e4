"""Is traffic still like the calibration images? A test that may be read after every image.

If it is, the calibration scores and the scores that arrive are exchangeable, and a smoothed
conformal p-value of each new score among *all* earlier ones is uniform and independent of the
past (Vovk, Gammerman and Shafer, *Algorithmic Learning in a Random World*, 2005, theorem 8.1 of
the second edition). A gambler who bets against uniformity then owns a martingale, and by Ville's
inequality his capital ever reaches ``1 / d`` with probability at most ``d``, however long he
plays and however often he is looked at (Vovk, Nouretdinov and Gammerman, *Testing
exchangeability on-line*, ICML 2003; Vovk, *Testing randomness online*, Statistical Science 36,
2021).

Three things make that exact here:

- *Ties.* Equal scores are ordered by random numbers, the calibration scores' fixed by the seed.
- *The finite calibration set.* Later scores join it: a new score falls into one of the gaps
  between the earlier ones, each equally likely. Only how many scores fell between which
  calibration scores is kept, in bins.
- *Acceptance.* Scores beyond the flag level, where attacks are, take no part. The level is an
  order statistic of the calibration scores; given it, those below it and the accepted scores are
  still exchangeable, so their p-values among themselves are uniform.

Torch-free: serving uses it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from detectors.calibrate import Cell

Floats = npt.NDArray[np.float64]

BINS = 64
"""Most bins of a class. Coarser bins cost power, never validity."""

JUMPS = (0.0001, 0.001, 0.01, 0.1)
"""How readily the gambler changes his bet, all mixed: the composite jumper of Vovk, Petej,
Nouretdinov, Ahlberg, Carlsson and Gammerman, *Retrain or not retrain: conformal test martingales
for change-point detection* (COPA 2021)."""


def bets(p: float) -> Floats:
    """What each bet pays for one p-value in (0, 1]: non-negative functions whose mean is 1.

    Cash; p-values that are low or high, mildly and strongly; more in both tails or fewer;
    more that are very low, which is where a rising false-alarm rate shows.
    """
    slope, tails = 2 * p - 1, math.cos(2 * math.pi * p)
    return np.array(
        [
            1.0,
            1 - 0.5 * slope, 1 + 0.5 * slope, 1 - slope, 1 + slope,
            1 - 0.8 * tails, 1 + 0.8 * tails,
            0.5 / math.sqrt(p),
        ]
    )  # fmt: skip


STATES = len(bets(0.5))


def idle(images: int) -> float:
    """The share of the capital that has not been put to play after so many images.

    A little joins with every image, so that a change after a million good images still meets a
    gambler who lost nothing on them. ``ln 2 / ln(n + 2)`` falls slowly enough for that.
    """
    return math.log(2) / math.log(images + 2)


@dataclass(frozen=True, slots=True)
class Gaps:
    """One class's calibration scores as places to fall between.

    ``place`` counts from the most suspicious end: gap g has g calibration scores above it.
    """

    scores: npt.NDArray[np.float32]
    """``float32[n]``, ascending."""
    ties: Floats
    """``float64[n]`` in [0, 1), ascending among equal scores."""
    beyond: int
    """Gaps that lie beyond the flag level."""

    @classmethod
    def of(cls, cell: Cell, level: float | None, seed: int) -> Self:
        """From a calibration cell and its flag level (None: nothing is ever flagged)."""
        scores = cell.fused
        ties = np.random.default_rng(seed).random(len(scores))
        order = np.lexsort((ties, scores))
        beyond = 0 if level is None else round(level * (len(scores) + 1))
        return cls(scores[order], ties[order], beyond)

    def place(self, score: float, tie: float) -> int:
        """The gap that a score falls into; ``tie``, uniform in [0, 1), orders equals."""
        value = np.float32(score)
        low = int(np.searchsorted(self.scores, value, side="left"))
        high = int(np.searchsorted(self.scores, value, side="right"))
        below = low + int(np.searchsorted(self.ties[low:high], tie))
        return len(self.scores) - below

    @property
    def accepted(self) -> int:
        """How many gaps are not beyond the level."""
        return len(self.scores) + 1 - self.beyond

    def bins(self) -> int:
        """How many bins hold them."""
        return min(BINS, self.accepted)

    def bin_of(self, gap: int) -> int:
        """The bin of a gap that is not beyond the level."""
        return (gap - self.beyond) * self.bins() // self.accepted

    def empty(self) -> list[int]:
        """How many gaps each bin has: its weight before any score fell into it."""
        counts = np.bincount(
            [self.bin_of(self.beyond + i) for i in range(self.accepted)], minlength=self.bins()
        )
        return [int(count) for count in counts]


@dataclass(slots=True)
class DriftTest:
    """The test of one source's traffic. Small, and plain enough to be stored as JSON.

    Args:
        false_alarm: most probability that a source like the calibration images is ever called
            drifted.
    """

    false_alarm: float = 0.001
    images: int = 0
    sum_p: float = 0.0
    """Of the p-values seen; its mean is near 0.5 while all is well, lower when scores rise."""
    drifted_after: int | None = None
    """How many images it took, once there is proof. Nothing is bet from then on."""
    weights: dict[int, list[int]] = field(default_factory=dict)
    """By class: what each bin weighs."""
    playing: Floats = field(default_factory=lambda: np.zeros((len(JUMPS), STATES)))
    """Capital by jump rate and bet."""

    def see(self, predicted: int, gaps: Gaps, score: float, tie: float, place: float) -> None:
        """One image of a source, in the order of arrival.

        Args:
            predicted: its class.
            gaps: that class's.
            score: its fused score, finite. One beyond the flag level is passed over.
            tie: uniform in [0, 1), orders equal scores.
            place: uniform in [0, 1), the place within the bin.
        """
        gap = gaps.place(score, tie)
        if gap < gaps.beyond or self.drifted_after is not None:
            return
        weights = self.weights.setdefault(predicted, gaps.empty())
        chosen = gaps.bin_of(gap)
        total = sum(weights)
        p = (sum(weights[:chosen]) + (1 - place) * weights[chosen]) / total
        weights[chosen] += 1
        self._bet(p)

    def _bet(self, p: float) -> None:
        """Play one round. ``p`` is in (0, 1]."""
        joining = idle(self.images) - idle(self.images + 1)
        self.images += 1
        self.sum_p += p
        self.playing += joining / self.playing.size
        rates = np.array(JUMPS)[:, None]
        mean = self.playing.mean(axis=1, keepdims=True)
        self.playing = ((1 - rates) * self.playing + rates * mean) * bets(p)
        if self.capital >= 1 / self.false_alarm:
            self.drifted_after = self.images

    @property
    def capital(self) -> float:
        """The martingale: 1 at the start, and 1 on average for ever while nothing drifts."""
        return float(self.playing.sum()) + idle(self.images)

    @property
    def evidence(self) -> float:
        """Its decimal logarithm."""
        return math.log10(self.capital)

    @property
    def mean_p(self) -> float:
        """Of the p-values seen; 0.5 before the first."""
        return self.sum_p / self.images if self.images else 0.5

    def as_document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "images": self.images,
            "sum_p": self.sum_p,
            "drifted_after": self.drifted_after,
            "weights": {str(c): weights for c, weights in self.weights.items()},
            "playing": self.playing.tolist(),
        }

    @classmethod
    def from_document(cls, document: dict[str, Any], false_alarm: float) -> Self:
        """What ``as_document`` wrote. Raises ``ValueError`` or ``KeyError`` for anything else."""
        playing = np.array(document["playing"], float)
        if playing.shape != (len(JUMPS), STATES):
            raise ValueError(f"capital of shape {playing.shape}")
        return cls(
            false_alarm=false_alarm,
            images=int(document["images"]),
            sum_p=float(document["sum_p"]),
            drifted_after=document["drifted_after"],
            weights={int(c): list(map(int, w)) for c, w in document["weights"].items()},
            playing=playing,
        )
