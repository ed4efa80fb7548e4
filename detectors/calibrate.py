"""Conformal p-values and the false-positive rates that a calibration set can assure.

Torch-free: serving uses it. Sources: Vovk, Gammerman and Shafer, *Algorithmic Learning in a
Random World* (2005); Bates et al., *Testing for outliers with conformal p-values* (Annals of
Statistics 51, 2023), from which the Beta law of the realised rate.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from models.engine import Readings

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PValues:
    """Conformal p-values of one image, each in ``(0, 1]``; NaN where a score was not finite."""

    predicted: int
    """Index of the predicted class, whose calibration cell was used."""
    fused: float
    quality: float
    detectors: tuple[float, ...]
    source: str | None = None
    """The source whose own cell was used; None: that of the class, over all sources."""


def conformal_p(sorted_scores: Scores, score: float) -> float:
    """``(1 + #{calibration scores >= score}) / (n + 1)``; NaN for a score that is not finite.

    Args:
        sorted_scores: ``float32[n]``, ascending.
    """
    if not math.isfinite(score):
        return math.nan
    n = len(sorted_scores)
    # not NumPy's search, which would first copy a column that is not contiguous
    at_least = n - bisect_left(sorted_scores, np.float32(score))
    return (1 + at_least) / (n + 1)


def rank(n: int, alpha: float) -> int:
    """How many of n + 1 exchangeable scores may be flagged at level ``alpha``: the number of
    calibration scores that a flagged score may fall below, plus one. 0: unattainable."""
    return int(np.floor((n + 1) * alpha + 1e-9))


def binomial_cdf(k: int, n: int, p: float) -> float:
    """``P(Binomial(n, p) <= k)``, summed in log space."""
    terms = (
        math.lgamma(n + 1)
        - math.lgamma(i + 1)
        - math.lgamma(n - i + 1)
        + i * math.log(p)
        + (n - i) * math.log1p(-p)
        for i in range(k + 1)
    )
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def assured_level(n: int, alpha: float, confidence: float = 0.95) -> float | None:
    """The largest nominal level ``l / (n + 1)`` whose realised FPR is at most ``alpha`` with
    ``confidence`` over calibration sets; None when ``n`` is too small for any.

    The realised FPR of ``p <= l / (n + 1)`` is Beta(l, n + 1 - l), and
    ``P(Beta(l, n + 1 - l) <= alpha) = P(Binomial(n, alpha) >= l)``.
    """
    best = None
    for flagged in range(1, rank(n, alpha) + 1):
        if 1 - binomial_cdf(flagged - 1, n, alpha) < confidence:
            break
        best = flagged / (n + 1)
    return best


def expected_level(n: int, alpha: float) -> float | None:
    """The largest level whose realised FPR is ``alpha`` at most on average over calibration sets,
    ``rank / (n + 1)``; None when ``n`` is too small for any (Vovk et al. 2005, proposition 2.3)."""
    flagged = rank(n, alpha)
    return flagged / (n + 1) if flagged else None


def images_needed(alpha: float, confidence: float = 0.95) -> int:
    """The smallest calibration cell for which ``assured_level`` exists: ``(1-alpha)^n <= 1-c``."""
    return int(np.ceil(np.log(1 - confidence) / np.log(1 - alpha)))


def images_needed_on_average(alpha: float) -> int:
    """The smallest calibration cell for which ``expected_level`` exists."""
    return math.ceil(1 / alpha - 1e-9) - 1


@dataclass(frozen=True, slots=True)
class Cell:
    """Calibration scores of one predicted class, each column sorted ascending.

    Those of quality are of all classes: what the model was not meant for is strange to each of
    them, and falls into whatever class the model happens to see in it. By class, three odd images
    among 261 would have a skin lesion model accept eyes.
    """

    fused: Scores
    quality: Scores
    """``float32[m]``, of all classes together."""
    detectors: Scores
    """``float32[n, D]``, every column sorted on its own."""

    def __len__(self) -> int:
        return len(self.fused)


@dataclass(frozen=True, slots=True)
class Calibration:
    """One cell per predicted class, and one per class and source where a source has images enough.

    Conditional on class and source alike (Mondrian: Vovk et al. 2005, section 4.5): where one
    hospital's images score higher than another's, a cell over both keeps to its rate on average and
    to neither's alone.
    """

    cells: tuple[Cell, ...]
    sources: Mapping[str, tuple[Cell | None, ...]] = field(default_factory=dict)
    """By source, then class. None: too few images, the class's cell serves it."""

    @classmethod
    def learn(
        cls,
        readings: Readings,
        classes: int,
        sources: Sequence[str] = (),
        least: int = 1,
    ) -> Self:
        """Sort the scores of benign images that nothing was fitted on into cells by predicted
        class. In a class with no image no score is suspicious: its p-values are 1.

        Args:
            sources: of every image, "" where that is not known; none are told apart if empty.
            least: images without which a source has no cell of its own.
        """
        predicted = predicted_class(readings.probabilities)
        source = np.array(sources or [""] * len(predicted))

        def cells(of: npt.NDArray[np.bool_]) -> Iterator[Cell]:
            quality = np.sort(readings.quality[of])
            for c in range(classes):
                rows = of & (predicted == c)
                yield Cell(
                    np.sort(readings.fused[rows]), quality, np.sort(readings.scores[rows], axis=0)
                )

        own = {
            name: tuple(cell if len(cell) >= least else None for cell in cells(source == name))
            for name in sorted(set(sources) - {""})
        }
        return cls(tuple(cells(np.ones(len(predicted), bool))), own)

    def cell(self, predicted: int, source: str | None) -> tuple[Cell, str | None]:
        """The cell that judges an image, and the source that it is of."""
        own = None if source is None else self.sources.get(source, ())[predicted:]
        if not own or own[0] is None:
            return self.cells[predicted], None
        return own[0], source

    def p_values(self, readings: Readings, sources: Sequence[str | None] = ()) -> list[PValues]:
        """One ``PValues`` an image.

        Args:
            sources: who sent each image; unknown to all if empty.
        """
        answers = []
        for i, c in enumerate(predicted_class(readings.probabilities).tolist()):
            cell, source = self.cell(c, sources[i] if sources else None)
            columns = cell.detectors.T
            answers.append(
                PValues(
                    predicted=c,
                    fused=conformal_p(cell.fused, float(readings.fused[i])),
                    quality=conformal_p(cell.quality, float(readings.quality[i])),
                    detectors=tuple(map(conformal_p, columns, readings.scores[i].tolist())),
                    source=source,
                )
            )
        return answers


def predicted_class(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """``intp[N]``: the most probable class. A NaN row predicts class 0; its scores are NaN too."""
    predicted: npt.NDArray[np.intp] = np.where(
        np.isnan(probabilities), np.float32(0), probabilities
    ).argmax(axis=1)
    return predicted
