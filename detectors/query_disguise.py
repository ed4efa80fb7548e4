"""Knows a picture again when it is shown in another window, moved, or under smooth noise.

An attacker who sees refusals disguises each question (OARS, Feng et al. 2023, arXiv 2310.17645).
Ranks do not change with the window, and the best of 81 positions does not change with a shift of
up to a fourteenth of the side, so two likenesses are compared by the least cosine distance of
their ranks' whitened frequencies over these. That is too much for an index of a million; it is
done against the last few hundred images of a process and those of its recent incidents, where an
attacker's other questions are. ``benchmarks/query_disguises.py`` has what lies within the radii.
NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from detectors.query_fingerprint import GRID, HIGHEST, LOWEST, NEIGHBOURS, WHITENING, cosines

MARGIN = 2
"""Cells by which an image may be moved each way, in steps of half a cell."""
SIDE = GRID - 2 * MARGIN
POSITIONS = (4 * MARGIN + 1) ** 2
ALIKE = 0.11
"""Distance within which an image is one of the recent ones again. No two of 600 phantoms and of
600 chests were nearer than 0.134."""
WANTED = 0.2
"""And one of an incident's: wider, because a mistake is possible only while there is one."""
COARSE = 0.4
"""Distance at whole cells beyond which halves of cells are not tried."""
TRIED = 16
"""And so many of either kind at most, the nearest."""
RECENT, INCIDENTS = 256, 64
"""Images of either kind that are kept."""
EACH = 4
"""Of one incident at most: who raises it must not be able to have many others' images held."""
TIE = 0.1
"""Grey levels: means of cells that differ by less have one rank."""

Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Likeness:
    """An image as it is compared; frequencies, no pixels."""

    whole: Float
    """``float32[5, 5, F]``: moved by whole cells, of any length."""

    @property
    def coarse(self) -> Float:
        """``float32[25, F]``, of unit length: at each whole cell."""
        return _unit(self.whole).reshape(-1, self.whole.shape[-1])

    @cached_property
    def moved(self) -> Float:
        """``float32[81, F]``, of unit length: at each position."""
        # Between two whole cells lies the mean of both: the transform is linear.
        whole = self.whole
        steps = 2 * len(whole) - 1
        moved = np.empty((steps, steps, whole.shape[-1]), np.float32)
        moved[::2, ::2] = whole
        moved[1::2, ::2] = (whole[1:] + whole[:-1]) / 2
        moved[:, 1::2] = (moved[:, :-2:2] + moved[:, 2::2]) / 2
        return _unit(moved).reshape(POSITIONS, -1)

    @property
    def centre(self) -> Float:
        """``float32[F]``, of unit length: where it is."""
        return _unit(self.whole[MARGIN, MARGIN])


@dataclass(frozen=True, slots=True)
class Known:
    """What is remembered beside a likeness."""

    cluster: int
    label: int
    sender: int
    study: int
    contrast: float
    brightness: float
    wanted: bool
    """It is of an incident."""
    until: float
    """Seconds since 1970."""


def likeness_of(cells: Float) -> Likeness:
    """How an image of these cells (``float32[28, 28]``, grey levels) looks at every position."""
    ranks = _ranks(cells)
    relief = ranks - _AROUND @ ranks @ _AROUND.T
    return Likeness((_WAVES_MOVED @ relief @ _WAVES_MOVED.T).ravel()[_KEPT_MOVED] * _GAINS)


def _unit(vectors: Float) -> Float:
    length = np.sqrt(np.vecdot(vectors, vectors))[..., np.newaxis]
    unit: Float = vectors / np.maximum(length, 1e-6)
    return unit


class Gallery:
    """The last images of a process and those of its incidents, oldest overwritten. The images of
    different models belong in different galleries."""

    def __init__(self, recent: int = RECENT, incidents: int = INCIDENTS) -> None:
        self._recent, self._incidents = recent, incidents
        # one a column: so the product with all of them takes two thirds of the time
        self._centres = np.zeros((int(_KEPT.sum()), recent + incidents), np.float32)
        self._known: list[Known | None] = [None] * (recent + incidents)
        self._next = self._next_wanted = 0

    def find(self, likeness: Likeness, now: float) -> Known | None:
        """The most alike of an incident within ``WANTED``, else the most alike within ``ALIKE``."""
        apart: Float = 1 - (likeness.coarse @ self._centres).max(axis=0)
        near = np.concatenate(
            [_nearest(apart[: self._recent]), self._recent + _nearest(apart[self._recent :])]
        )
        if len(near) == 0:
            return None
        apart[near] = 1 - (likeness.moved @ self._centres[:, near]).max(axis=0)
        places = near[np.argsort(apart[near])]
        of_incidents = places >= self._recent
        for group, radius in ((places[of_incidents], WANTED), (places[~of_incidents], ALIKE)):
            for place in map(int, group[apart[group] <= radius]):
                known = self._known[place]
                if known is not None and known.until >= now:
                    return known
        return None

    def keep(self, likeness: Likeness, known: Known) -> None:
        """Remember an image; with the first of an incident, what is recent of its cluster."""
        centre = likeness.centre
        if not known.wanted:
            self._centres[:, self._next] = centre
            self._known[self._next] = known
            self._next = (self._next + 1) % self._recent
            return
        same = self._exemplars(known.cluster)
        if same:
            # What is only somewhat alike may be a bystander: it must not draw in its own likes.
            apart = 1 - (likeness.moved @ self._centres[:, same]).max(axis=0)
            if apart.min() > ALIKE:
                return
        else:
            for i, other in enumerate(self._known[: self._recent]):
                if other is not None and other.cluster == known.cluster:
                    self._want(self._centres[:, i].copy(), replace(other, wanted=True))
        self._want(centre, known)

    def _want(self, centre: Float, known: Known) -> None:
        """Unless another of its cluster looks just so, or enough of it are known: one flood must
        not wash other incidents out."""
        same = self._exemplars(known.cluster)
        apart = 1 - centre @ self._centres[:, same]
        if len(same) >= EACH or (apart < ALIKE / 2).any():
            return
        place = self._recent + self._next_wanted
        self._centres[:, place], self._known[place] = centre, known
        self._next_wanted = (self._next_wanted + 1) % self._incidents

    def _exemplars(self, cluster: int) -> list[int]:
        places = range(self._recent, len(self._known))
        return [i for i in places if (known := self._known[i]) and known.cluster == cluster]


def _nearest(apart: Float) -> npt.NDArray[np.intp]:
    near = np.flatnonzero(apart <= COARSE)
    return near if len(near) <= TRIED else near[np.argpartition(apart[near], TRIED)[:TRIED]]


def _ranks(cells: Float) -> Float:
    """``float32[28, 28]``, 0 to 1: the share of cells that are darker."""
    place = np.rint((cells - cells.min()) / TIE).astype(np.intp)
    count = np.bincount(place.ravel())
    middle = ((np.cumsum(count) - (count + 1) / 2) / cells.size).astype(np.float32)
    ranks: Float = middle[place]
    return ranks


_AROUND = NEIGHBOURS / NEIGHBOURS.sum(axis=1, keepdims=True)
"""Of both sides in turn: the mean of the cells around each."""
_SPAN = 2 * MARGIN + 1
_WAVES_MOVED = np.concatenate(
    [np.pad(cosines(SIDE), ((0, 0), (step, _SPAN - 1 - step))) for step in range(_SPAN)]
)
"""The transform of every part of a side that an image may have moved to, one below the other."""
_FREQUENCIES = np.hypot(*np.indices((SIDE, SIDE)))
_KEPT = (_FREQUENCIES >= LOWEST) & (_FREQUENCIES < HIGHEST)
_GAINS = (_FREQUENCIES[_KEPT] ** WHITENING).astype(np.float32)
_KEPT_MOVED = np.stack(
    [
        [
            np.ravel_multi_index(
                (down * SIDE + _KEPT.nonzero()[0], across * SIDE + _KEPT.nonzero()[1]),
                (_SPAN * SIDE, _SPAN * SIDE),
            )
            for across in range(_SPAN)
        ]
        for down in range(_SPAN)
    ]
)
"""``intp[5, 5, F]``: where the kept frequencies of every part are among all."""
