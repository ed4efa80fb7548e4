"""Where recent queries are kept: the interface, and the store of one process.

Both stores hold the same bytes: a ring of fixed records, and hash tables of record numbers, each
slot of which the newest record takes. Nothing is searched and nothing grows: the work of a query
is some 13 look-ups, and the memory is ``memory`` bytes and the clusters.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from detectors.query_fingerprint import BANDS, SCALE, SKETCH, Fingerprint
from detectors.query_sequence import (
    ALARM,
    RADIUS,
    SAME,
    SENDERS,
    Kind,
    Sight,
    retoned,
    weight,
)

RECORD = np.dtype(
    [
        ("seconds", "<u4"),
        ("number", "<u4"),
        ("root", "<u4"),
        ("study", "<u4"),
        ("sender", "<u4"),
        ("label", "<u2"),
        ("contrast", "<u2"),
        ("brightness", "<u2"),
        ("late", "<u2"),
        ("pixels", "V8"),
        ("sketch", "u1", SKETCH),
    ]
)
"""84 bytes a query; contrast and brightness in 64ths of a grey level."""
FINE = 64
LIMIT = round(RADIUS * 2 * SCALE**2)
"""``RADIUS`` as a sum of squared differences of sketch bytes."""
SAME_LIMIT = round(SAME * 2 * SCALE**2)


class StoreProblem(Exception):
    """The store does not answer. The message says why."""


@dataclass(frozen=True, slots=True)
class Link:
    """A query's tie to its predecessor."""

    cluster: int
    kind: Kind
    flip: bool
    relieved: bool
    sender: int
    """The predecessor's."""
    wanted: bool
    """It is of an incident: this link goes before the one to the most similar predecessor."""


@dataclass(frozen=True, slots=True)
class Query:
    """One judged image."""

    fingerprint: Fingerprint
    label: int
    """The predicted class."""
    sender: int
    """Who asked, ``Fingerprinter.key``."""
    study: int
    """The study it claims to be of, ``Fingerprinter.key``; 0 if none."""
    known: bool
    """The sender is one whose repeats are expected."""
    incident: str
    """The id that an incident gets if this query is the one to raise it."""
    hint: Link | None = None
    """To a predecessor that was known again in disguise, which the store cannot."""

    def relieved_by(self, sender: int, study: int) -> bool:
        """Whether a predecessor of that sender and study makes its evidence a 32nd."""
        same_study = self.study != 0 and self.study == study
        return same_study or (self.known and self.sender == sender)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is remembered, and for how long."""

    queries: int
    seconds: int

    @property
    def slots(self) -> int:
        """Of each hash table: the power of two at or above the number of queries."""
        return 1 << (self.queries - 1).bit_length()

    @property
    def memory(self) -> int:
        """Bytes when full, clusters apart."""
        return self.queries * RECORD.itemsize + BANDS * self.slots * 4


class Store(Protocol):
    """What keeps recent queries."""

    async def observe(self, query: Query, now: float) -> Sight:
        """Link one query to those before it, and keep it. Raises ``StoreProblem``.

        Args:
            now: seconds since 1970.
        """
        ...

    async def withdraw(self, cluster: int) -> None:
        """Forget that a cluster's incident was raised: it could not be recorded. Raises
        ``StoreProblem``."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


@dataclass(slots=True)
class _Cluster:
    queries: int = 1
    flips: int = 0
    points: int = 0
    incident: str | None = None
    senders: set[int] = field(default_factory=set)
    toned: bool = False
    until: float = 0.0


class LocalStore:
    """The store of one process. Called from the event loop only, so without a lock."""

    def __init__(self, size: Size) -> None:
        self._size = size
        self._records = np.zeros(size.queries, RECORD)
        self._tables = np.zeros((BANDS, size.slots), np.uint32)
        self._rows = np.arange(BANDS)
        self._clusters: OrderedDict[int, _Cluster] = OrderedDict()
        self._number = 0

    async def observe(self, query: Query, now: float) -> Sight:
        """As ``Store``."""
        return self.link(query, now)

    def link(self, query: Query, now: float) -> Sight:
        """``observe`` without waiting for anything."""
        seconds = int(now)
        slots = np.array(query.fingerprint.bands, np.int64) % self._size.slots
        found = self._candidates(slots, seconds)
        exact = bytes(query.fingerprint.pixels)
        for record in found:
            if record["pixels"].tobytes() == exact:
                return self._repeat(record, now)
        link = self._nearest(query, found)
        if query.hint is not None and (link is None or query.hint.wanted):
            link = query.hint
        number = self._next()
        sight = Sight(Kind.NEW, cluster=number) if link is None else self._grow(link, query, now)
        root, late = sight.cluster, sight.incident is not None
        self._records[number % self._size.queries] = (
            seconds,
            number,
            root,
            query.study,
            query.sender,
            query.label,
            round(query.fingerprint.contrast * FINE),
            round(query.fingerprint.brightness * FINE),
            late,
            np.void(exact),
            np.frombuffer(query.fingerprint.sketch, np.uint8),
        )
        self._tables[self._rows, slots] = number
        return sight

    async def withdraw(self, cluster: int) -> None:
        """As ``Store``."""
        if cluster in self._clusters:
            self._clusters[cluster].incident = None

    async def close(self) -> None:
        """As ``Store``."""

    def _next(self) -> int:
        self._number = self._number % (2**32 - 1) + 1
        return self._number

    def _candidates(self, slots: npt.NDArray[np.int64], seconds: int) -> npt.NDArray[np.void]:
        numbers = np.unique(self._tables[self._rows, slots])
        records = self._records[numbers % self._size.queries]
        kept = (numbers > 0) & (records["number"] == numbers)
        kept &= records["seconds"] + self._size.seconds >= seconds
        candidates: npt.NDArray[np.void] = records[kept]
        return candidates

    def _nearest(self, query: Query, found: npt.NDArray[np.void]) -> Link | None:
        """The most similar predecessor, of several alike the newest."""
        if len(found) == 0:
            return None
        fingerprint = query.fingerprint
        sketch = np.frombuffer(fingerprint.sketch, np.uint8).astype(np.int32)
        apart = ((found["sketch"].astype(np.int32) - sketch) ** 2).sum(axis=1)
        best = len(apart) - 1 - int(apart[::-1].argmin())
        if apart[best] > LIMIT:
            return None
        parent: np.void = found[best]
        sender = int(parent["sender"])
        toned = retoned(
            round(fingerprint.contrast * FINE) / FINE,
            round(fingerprint.brightness * FINE) / FINE,
            (int(parent["contrast"]) / FINE, int(parent["brightness"]) / FINE),
        )
        return Link(
            cluster=int(parent["root"]),
            kind=Kind.TONE if toned else Kind.SAME if apart[best] <= SAME_LIMIT else Kind.NEAR,
            flip=query.label != int(parent["label"]),
            relieved=query.relieved_by(sender, int(parent["study"])),
            sender=sender,
            wanted=False,
        )

    def _grow(self, link: Link, query: Query, now: float) -> Sight:
        root = link.cluster
        cluster = self._clusters.get(root)
        if cluster is None or cluster.until < now:
            cluster = self._clusters[root] = _Cluster(senders={link.sender})
        self._clusters.move_to_end(root)
        while len(self._clusters) > self._size.queries:
            self._clusters.popitem(last=False)
        cluster.until = now + self._size.seconds
        cluster.toned |= link.kind is Kind.TONE
        cluster.points += weight(
            link.kind,
            flip=link.flip,
            relieved=link.relieved,
            images=cluster.queries,
            toned=cluster.toned,
        )
        cluster.queries += 1
        cluster.flips += link.flip
        if len(cluster.senders) < SENDERS:
            cluster.senders.add(query.sender)
        first = cluster.incident is None and cluster.points >= ALARM
        if first:
            cluster.incident = query.incident
        return Sight(
            kind=link.kind,
            flip=link.flip,
            cluster=root,
            queries=cluster.queries,
            flips=cluster.flips,
            senders=len(cluster.senders),
            points=cluster.points,
            incident=cluster.incident,
            first=first,
        )

    def _repeat(self, record: np.void, now: float) -> Sight:
        root = int(record["root"])
        cluster = self._clusters.get(root)
        if cluster is None or cluster.until < now:
            return Sight(Kind.REPEAT, cluster=root)
        return Sight(
            Kind.REPEAT,
            cluster=root,
            queries=cluster.queries,
            flips=cluster.flips,
            senders=len(cluster.senders),
            points=cluster.points,
            incident=cluster.incident,
            late=bool(record["late"]),
        )
