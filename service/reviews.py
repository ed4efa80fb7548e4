"""What people decide on held images, durable before it is answered and counted once it is.

A case is claimed, so that two do not look at the same one, and released (it was benign) or
confirmed (holding it was right). Every step is a row of its own that is never changed. Files are
kept for ``case_days``; a case that nobody decided by then expires.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import Connection, Engine, insert, select, update

from service.case_states import DECIDED, TRANSITIONS, UNDECIDED, Event, State, before
from service.metrics import Metrics
from service.metrics import catalogue as c
from service.tables import cases, reviews

CLAIM_LASTS: Final = timedelta(hours=8)
"""A shift. After it the case is open to others again."""
NOBODY: Final = "lazaret"
"""Who lets claims lapse and cases expire."""
MOST_EXPIRED: Final = 500
"""Cases that expire in one turn."""


class NoCase(Exception):
    """There is none of that id."""


class Conflict(Exception):
    """It cannot happen to the case as it is. The message says why."""


@dataclass(frozen=True, slots=True)
class Review:
    """One step of a case."""

    at: datetime
    by: str
    event: Event
    note: str | None


@dataclass(frozen=True, slots=True)
class Reviews:
    """Decides in the records' database. Everything blocks."""

    engine: Engine
    metrics: Metrics
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def happen(self, case_id: str, event: Event, by: str, note: str | None = None) -> None:
        """Claim, release or confirm. What has happened already by the same hand happens once.

        Raises:
            NoCase: of that id.
            Conflict: another has claimed it, or it is not in a state for that.
        """
        with self.engine.begin() as connection:
            query = select(cases.c.state, cases.c.claimed_by, cases.c.model)
            found = connection.execute(
                query.where(cases.c.case_id == case_id).with_for_update()
            ).first()
            if found is None:
                raise NoCase
            state = State(found.state)
            if TRANSITIONS.get((state, event)) is None and _is_done(state, event):
                return
            _refuse(state, found.claimed_by, event, by)
            if not self._change(connection, case_id, state, event, by, note):
                raise Conflict("Somebody else was faster; look at the case again.")
        self._tell(case_id, found.model, event, by)

    def history(self, case_id: str) -> list[Review]:
        """Every step of a case, oldest first."""
        query = select(reviews.c.at, reviews.c.by, reviews.c.event, reviews.c.note)
        query = query.where(reviews.c.case_id == case_id).order_by(reviews.c.id)
        with self.engine.connect() as connection:
            return [
                Review(row.at, row.by, Event(row.event), row.note)
                for row in connection.execute(query)
            ]

    def expire(self, days: float) -> None:
        """Let claims lapse, undecided cases of that age expire, and their files go."""
        now = self.now()
        old = now - timedelta(days=days)
        for event, due in (
            (Event.LAPSE, cases.c.claimed_at < now - CLAIM_LASTS),
            (Event.EXPIRE, cases.c.opened_at < old),
        ):
            for state in before(event):
                query = select(cases.c.case_id, cases.c.model).where(cases.c.state == state, due)
                with self.engine.begin() as connection:
                    changed = [
                        row
                        for row in connection.execute(query.limit(MOST_EXPIRED)).all()
                        if self._change(connection, row.case_id, state, event, NOBODY, None)
                    ]
                for row in changed:
                    self._tell(row.case_id, row.model, event, NOBODY)
        gone = cases.c.opened_at < old, cases.c.state.not_in(UNDECIDED), cases.c.image != b""
        with self.engine.begin() as connection:
            connection.execute(update(cases).where(*gone).values(image=b""))

    def _change(
        self,
        connection: Connection,
        case_id: str,
        state: State,
        event: Event,
        by: str,
        note: str | None,
    ) -> bool:
        """Whether the case was still in that state."""
        after, now = TRANSITIONS[state, event], self.now()
        claimed = after is State.CLAIMED
        done = connection.execute(
            update(cases)
            .where(cases.c.case_id == case_id, cases.c.state == state)
            .values(
                state=after,
                claimed_by=by if claimed else None,
                claimed_at=now if claimed else None,
            )
        )
        if done.rowcount != 1:
            return False
        row = {"case_id": case_id, "at": now, "by": by, "event": event, "note": note}
        connection.execute(insert(reviews), row)
        return True

    def _tell(self, case_id: str, model: str, event: Event, by: str) -> None:
        after = {Event.RELEASE: "released", Event.CONFIRM: "confirmed", Event.EXPIRE: "expired"}
        if event in after:
            self.metrics.count(c.REVIEWS, model, after[event])
        structlog.get_logger().info(f"case {event}", case_id=case_id, model=model, by=by)


def _is_done(state: State, event: Event) -> bool:
    """Whether the event has led to the state already."""
    return any(then is state for (_, one), then in TRANSITIONS.items() if one is event)


def _refuse(state: State, claimed_by: str | None, event: Event, by: str) -> None:
    if state is State.CLAIMED and claimed_by != by:
        raise Conflict(f"{claimed_by} has claimed it.")
    if (state, event) not in TRANSITIONS:
        decided = "has been decided" if state in DECIDED else "has expired"
        raise Conflict(f"It {decided} ({state}).")
