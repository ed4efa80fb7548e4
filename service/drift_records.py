"""What the drift tests have seen, in the records' database: one test a source, one cursor a basis.

Several processes may watch one database. Whoever moves the cursor first has done the work; the
others find it moved and change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from service.decide import Route
from service.tables import drift_cursors, drift_tests, requests


@dataclass(frozen=True, slots=True)
class Seen:
    """One judged image, as far as the test wants it."""

    request_id: str
    client: str
    label: str
    fused_score: float
    pixels: str


@dataclass(frozen=True, slots=True)
class StoredTest:
    """One source's test on record."""

    source: str
    model: str
    bundle: str
    begun_at: datetime
    drifted_at: datetime | None
    test: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DriftRecords:
    """Reads and writes through the records' engine. Everything blocks."""

    engine: Engine

    def cursor(self, basis: str) -> int | None:
        """The last request that the tests of this basis have passed; None before they began."""
        with self.engine.connect() as connection:
            query = select(drift_cursors.c.last_id).where(drift_cursors.c.basis == basis)
            found: int | None = connection.scalar(query)
        return found

    def begin(self, basis: str) -> None:
        """Set the cursor to the newest request, unless somebody has set it."""
        with self.engine.connect() as connection:
            newest = connection.scalar(select(func.max(requests.c.id))) or 0
        try:
            with self.engine.begin() as connection:
                connection.execute(insert(drift_cursors).values(basis=basis, last_id=newest))
        except IntegrityError:
            return

    def settled(self, after: int, before: datetime) -> int:
        """The newest request from before ``before``; ``after`` if there is none behind it.

        Ids are drawn before a row is visible, so very fresh rows may still have gaps."""
        query = select(func.max(requests.c.id)).where(requests.c.id > after, requests.c.at < before)
        with self.engine.connect() as connection:
            newest: int | None = connection.scalar(query)
        return after if newest is None else newest

    def judged(self, bundle: str, after: int, last: int, most: int) -> list[tuple[int, Seen]]:
        """Images that this bundle judged, oldest first, with their ids. Bypassed ones have no
        score; what the query history held was sent by an attacker."""
        c = requests.c
        query = (
            select(c.id, c.request_id, c.client, c.label, c.fused_score, c.pixels)
            .where(
                c.id > after,
                c.id <= last,
                c.bundle == bundle,
                c.fused_score.is_not(None),
                or_(c.route.is_(None), c.route.in_([Route.ADVERSARIAL, Route.QUALITY])),
            )
            .order_by(c.id)
            .limit(most)
        )
        with self.engine.connect() as connection:
            return [(row[0], Seen(*row[1:])) for row in connection.execute(query)]

    def tests(self, basis: str) -> list[StoredTest]:
        """Every source's test."""
        c = drift_tests.c
        query = select(c.source, c.model, c.bundle, c.begun_at, c.drifted_at, c.test)
        with self.engine.connect() as connection:
            rows = connection.execute(query.where(c.basis == basis).order_by(c.source))
            return [StoredTest(*row) for row in rows]

    def advance(self, basis: str, old: int, new: int, changed: Sequence[StoredTest]) -> bool:
        """Move the cursor and store what changed, together; False: somebody else has."""
        with self.engine.begin() as connection:
            moved = connection.execute(
                update(drift_cursors)
                .where(drift_cursors.c.basis == basis, drift_cursors.c.last_id == old)
                .values(last_id=new)
            )
            if moved.rowcount != 1:
                return False
            for stored in changed:
                key = (drift_tests.c.basis == basis) & (drift_tests.c.source == stored.source)
                connection.execute(delete(drift_tests).where(key))
                connection.execute(
                    insert(drift_tests).values(
                        basis=basis,
                        source=stored.source,
                        model=stored.model,
                        bundle=stored.bundle,
                        begun_at=stored.begun_at,
                        drifted_at=stored.drifted_at,
                        test=stored.test,
                    )
                )
        return True
