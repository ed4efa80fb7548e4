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

RADIUS = 0.065
"""Cosine distance within which a query is linked. Images of different patients were never nearer
(chest, skin and phantom; ``docs/results/query_fingerprints.md``)."""
CONTRAST, BRIGHTNESS = 0.04, 4.0
"""A link whose contrast differs by this share, or whose brightness by so many grey levels, is
another window of the picture; attacks change neither by as much from one query to the next."""

POINT = 64
"""Evidence is counted in 64ths, as integers: every store adds alike."""
ALARM = 8 * POINT
"""Evidence at which a cluster is an attack: eight queries that differ by no more than noise, or
four of which the last changed the diagnosis."""
RELIEF = 32
"""Links within one study, and of known senders to their own images, count a 32nd: 256 frames of a
series weigh as much as eight strange queries. Not nothing, since anybody can write a UID."""


class Kind(IntEnum):
    """What a query is to the history."""

    NEW = 0
    """Like nothing before it."""
    REPEAT = 1
    """Bit-identical to one before it."""
    NEAR = 2
    """The same picture but for noise."""
    TONE = 3
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


def weight(kind: Kind, *, flip: bool, relieved: bool) -> int:
    """Evidence of one link, in ``POINT``ths.

    A flip weighs most: it is what an attacker is after, and re-encoding or noise of a benign kind
    changes the diagnosis rarely. Another window does so more often, and viewers export several.
    """
    points = {
        (Kind.NEAR, False): POINT,
        (Kind.NEAR, True): 6 * POINT,
        (Kind.TONE, False): POINT // 4,
        (Kind.TONE, True): POINT // 2,
    }.get((kind, flip), 0)
    return points // RELIEF if relieved else points


WEIGHTS = tuple(
    weight(kind, flip=flip, relieved=relieved)
    for kind in (Kind.NEAR, Kind.TONE)
    for flip in (False, True)
    for relieved in (False, True)
)
"""For stores: at ``4 * (kind - NEAR) + 2 * flip + relieved``."""
