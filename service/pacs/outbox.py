"""What is to be sent, in the records' database: written with the verdict that it tells of, in one
transaction, and sent from there until the destination has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Engine, Table, and_, delete, func, insert, or_, select, update
from sqlalchemy.engine import Row

from service.pacs.outbox_states import Event, State, after
from service.tables import instances, outbox

MOST_PURGED: Final = 10_000
"""Rows of each kind that are removed in one transaction."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """An object to be sent."""

    destination: str
    """The peer's configured name."""
    object: str
    """One of ``service.metrics.labels.OBJECT``."""
    media_type: str
    content: bytes

    def row(self, request_id: str | None, now: datetime) -> tuple[Table, dict[str, Any]]:
        """For ``Record.rows``."""
        return outbox, {
            "request_id": request_id,
            "destination": self.destination,
            "object": self.object,
            "media_type": self.media_type,
            "content": self.content,
            "state": State.WAITING.value,
            "attempts": 0,
            "created_at": now,
            "due_at": now,
        }


@dataclass(frozen=True, slots=True)
class Item:
    """An object that this process is sending."""

    id: int
    parcel: Parcel
    attempts: int
    """This one included; tells our claim from a later one's."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Count:
    """How many objects of one destination are in one state."""

    destination: str
    state: State
    tried: bool
    """Whether at least one attempt failed."""
    objects: int
    oldest: datetime


class Outbox:
    """The table. Every method blocks, and may be called from any thread or process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, parcels: Sequence[Parcel], now: datetime) -> None:
        """Write what belongs to no verdict."""
        rows = [parcel.row(None, now)[1] for parcel in parcels]
        if rows:
            with self._engine.begin() as connection:
                connection.execute(insert(outbox), rows)

    def claim(self, destination: str, most: int, now: datetime, lease_seconds: float) -> list[Item]:
        """Begin to send what is due, the oldest first. No other process gets the same before the
        lease is over."""
        waiting, sending = after(Event.CLAIM)
        left, _ = after(Event.TAKE_OVER)
        due = (
            select(outbox.c.id)
            .where(
                outbox.c.destination == destination,
                or_(outbox.c.state == waiting.value, outbox.c.state == left.value),
                outbox.c.due_at <= now,
            )
            .order_by(outbox.c.id)
            .limit(most)
            .with_for_update(skip_locked=True)  # SQLite has one writer and ignores it
        )
        taken = (
            update(outbox)
            .where(outbox.c.id.in_(due.scalar_subquery()))
            .values(
                state=sending.value,
                attempts=outbox.c.attempts + 1,
                due_at=now + timedelta(seconds=lease_seconds),
            )
            .returning(*outbox.c)
        )
        with self._engine.begin() as connection:
            rows = connection.execute(taken).all()
        return sorted((_item(row) for row in rows), key=lambda item: item.id)

    def delivered(self, item: Item, now: datetime, tell: Sequence[Parcel] = ()) -> bool:
        """The destination has it; False when another process has taken over meanwhile.

        Args:
            tell: written in the same transaction.
        """
        values = {"settled_at": now, "content": b"", "problem": None}
        rows = [parcel.row(None, now)[1] for parcel in tell]
        return self._settle(item, Event.DELIVER, rows, **values)

    def failed(self, item: Item, problem: str, due: datetime) -> bool:
        """Try again at ``due``. ``problem`` is a short fixed word."""
        return self._settle(item, Event.FAIL, due_at=due, problem=problem)

    def gave_up(self, item: Item, problem: str, now: datetime) -> bool:
        """No more attempts until somebody redrives it."""
        return self._settle(item, Event.GIVE_UP, settled_at=now, problem=problem)

    def redrive(self, destination: str | None, now: datetime) -> int:
        """Let dead letters wait again, of one destination or all; how many."""
        before, then = after(Event.REDRIVE)
        change = update(outbox).where(outbox.c.state == before.value)
        if destination is not None:
            change = change.where(outbox.c.destination == destination)
        # Its clock starts anew, else it would be given up at the first failure.
        change = change.values(
            state=then.value, attempts=0, created_at=now, due_at=now, settled_at=None
        )
        with self._engine.begin() as connection:
            return int(connection.execute(change).rowcount)

    def purge(self, before: datetime, in_spool: Callable[[str], bool]) -> int:
        """Remove what was delivered before then, and the keys of instances that were judged before
        then, ``MOST_PURGED`` of each at a time; how many rows.

        Args:
            in_spool: whether an instance is still in the spool, where its key must be known.
        """
        old = (
            select(outbox.c.id)
            .where(outbox.c.state == State.DELIVERED.value, outbox.c.settled_at < before)
            .limit(MOST_PURGED)
        )
        with self._engine.begin() as connection:
            gone = delete(outbox).where(outbox.c.id.in_(old.scalar_subquery()))
            rows = connection.execute(gone).rowcount
            judged = select(instances.c.key).where(instances.c.at < before).limit(MOST_PURGED)
            keys = [key for key in connection.scalars(judged) if not in_spool(key)]
            if keys:
                connection.execute(delete(instances).where(instances.c.key.in_(keys)))
        return int(rows) + len(keys)

    def counts(self) -> list[Count]:
        """What is not delivered."""
        tried = outbox.c.attempts > 1
        query = (
            select(
                outbox.c.destination,
                outbox.c.state,
                tried,
                func.count(),
                func.min(outbox.c.created_at),
            )
            .where(outbox.c.state != State.DELIVERED.value)
            .group_by(outbox.c.destination, outbox.c.state, tried)
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        return [
            Count(name, State(state), bool(again), count, since)
            for name, state, again, count, since in rows
        ]

    def dead(self, most: int = 100) -> list[dict[str, Any]]:
        """The oldest dead letters, without their content."""
        columns = [column for column in outbox.c if column.name != "content"]
        query = select(*columns).where(outbox.c.state == State.DEAD.value).order_by(outbox.c.id)
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query.limit(most)).mappings()]

    def _settle(
        self, item: Item, event: Event, rows: Sequence[dict[str, Any]] = (), **values: Any
    ) -> bool:
        before, then = after(event)
        ours = and_(
            outbox.c.id == item.id,
            outbox.c.state == before.value,
            outbox.c.attempts == item.attempts,
        )
        with self._engine.begin() as connection:
            change = update(outbox).where(ours).values(state=then.value, **values)
            ours_still = connection.execute(change).rowcount == 1
            if ours_still and rows:
                connection.execute(insert(outbox), list(rows))
        return ours_still


def _item(row: Row[Any]) -> Item:
    return Item(
        id=row.id,
        parcel=Parcel(row.destination, row.object, row.media_type, row.content),
        attempts=row.attempts,
        created_at=row.created_at,
    )
