"""What a growing sequence of like queries is evidence of. Pure: no clock, no store.

A query is linked to its most similar predecessor, so that queries form clusters (the provenance
graphs of Li et al. 2024, arXiv 2405.20641); what is judged is the cluster and never a pair, which
adaptive attackers keep under any pairwise threshold (OARS, Feng et al. 2023). Each link adds
evidence to its cluster, whoever asked. Hospitals make near-duplicates too, and each kind of
theirs has its place in ``weight``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

RADIUS = 0.055
"""Cosine distance within which a query is linked. At 0.065 two of 2,900 phantoms were one
(``docs/results/query_history.md``); at 0.045 some windows of one picture are two."""
CONTRAST, BRIGHTNESS = 0.04, 4.0
"""A link whose contrast differs by this share, or whose brightness by so many grey levels, is
another window of the picture; attacks change neither by as much from one query to the next."""

SAME = 0.0015
"""Cosine distance that another encoding (JPEG, fewer bits) makes of a picture: at most 0.0014 of
chests, skin, ultrasound and phantoms, at most 0.005 of fundus photographs."""

POINT = 64
"""Evidence is counted in 64ths, as integers: every store adds alike."""
ALARM = 8 * POINT
"""Evidence at which a cluster is an attack: eight queries that differ by no more than noise, or
three of which the last changed the diagnosis."""
RELIEF = 32
"""Links within one study, and of known senders to their own images, count a 32nd: 256 frames of a
series weigh as much as eight strange queries. Not nothing, since anybody can write a UID."""


class Kind(IntEnum):
    """What a query is to the history."""

    NEW = 0
    """Like nothing before it."""
    REPEAT = 1
    """Bit-identical to one before it."""
    SAME = 2
    """The same picture, changed no more than another encoding would change it."""
    NEAR = 3
    """The same picture but for noise, or moved a little."""
    TONE = 4
    """The same picture in another window."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A query as the history saw it, and the cluster that it belongs to, itself included."""

    kind: Kind
    flip: bool = False
    """The predicted class differs from that of the most similar predecessor."""
    cluster: int = 0
    queries: int = 1
    """Distinct images of the cluster."""
    flips: int = 0
    senders: int = 1
    """At most ``SENDERS`` are counted."""
    points: int = 0
    """The cluster's evidence."""
    incident: str | None = None
    """Of the cluster, once its evidence reached ``ALARM``."""
    first: bool = False
    """This query brought the evidence there."""
    late: bool = False
    """A repeat of a query that came after the alarm."""

    @property
    def attack(self) -> bool:
        """Whether this query is part of an attack. A repeat of what was asked before the alarm is
        not: its answer is known, and a hospital may send an image again that somebody attacked."""
        return self.incident is not None and (self.kind is not Kind.REPEAT or self.late)


UNSEEN = Sight(Kind.NEW)
"""Of an image that no history was asked about."""
SENDERS = 64
"""Most senders that a cluster remembers."""


def retoned(contrast: float, brightness: float, before: tuple[float, float]) -> bool:
    """Whether an image is another window of the one of contrast and brightness ``before``."""
    return (
        abs(contrast - before[0]) > CONTRAST * before[0] or abs(brightness - before[1]) > BRIGHTNESS
    )


def weight(kind: Kind, *, flip: bool, relieved: bool, images: int = 3, toned: bool = False) -> int:
    """Evidence of one link, in ``POINT``ths.

    A flip is what an attacker is after and weighs most, the more the longer the series is. It
    weighs little where hospitals see it too: between two encodings or two windows of a picture
    whose diagnosis lies on the boundary, and nothing of its own within a study, where neighbouring
    frames of such a picture flip by themselves.

    Args:
        images: of the cluster before this one.
        toned: the cluster has another window of its picture.
    """
    if relieved:
        return WEIGHTS[2 * (kind - Kind.SAME)] // RELIEF
    points = WEIGHTS[2 * (kind - Kind.SAME) + flip]
    return min(points, FLIP_TONED if toned else FLIP_STEP * images) if flip else points


WEIGHTS = (POINT, POINT, POINT, 6 * POINT, POINT // 2, POINT)
"""At ``2 * (kind - SAME) + flip``; of a flip the most."""
FLIP_STEP, FLIP_TONED = 2 * POINT, POINT
"""The most that a flip weighs for each image before it, and in a series of several windows."""
