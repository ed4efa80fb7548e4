"""Takes objects out of the outbox to where they belong, one thread a destination, off every
request's path. A destination that is down holds up nobody else's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service.metrics import Metrics
from service.metrics import catalogue as c
from service.metrics import labels as by
from service.pacs.outbox import Count, Item, Outbox, Parcel
from service.pacs.outbox_states import State
from service.pacs.peers import Peer
from service.pacs.routes import Delivery as Pace
from service.pacs.senders import Outcome, Sender, Sent, Unreachable, sender_for

AUDIT = "audit"
"""What the outbox calls an audit message."""
GROUP = 16
"""Most objects of one association: small, so that the lease covers a group on a slow line."""
LOOK_SECONDS = 1.0
"""How often the outbox is looked at for what another process wrote."""
COUNT_SECONDS = 15.0


class Delivery:
    """The threads. ``start``, ``wake`` after each verdict, ``close``.

    Args:
        make: from a peer to what sends to it.
        tell: makes what others are told of a delivered object.
        clock: the time in UTC.
    """

    def __init__(
        self,
        outbox: Outbox,
        peers: Mapping[str, Peer],
        pace: Pace,
        metrics: Metrics,
        *,
        make: Callable[[Peer], Sender] = sender_for,
        tell: Callable[[Item], Sequence[Parcel]] = lambda _: (),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._outbox = outbox
        self._pace = pace
        self._metrics = metrics
        self._clock = clock
        self._tell_of = tell
        self._closing = threading.Event()
        metrics.allow(by.PEER, peers)
        self._lanes = {name: _Lane(self, name, partial(make, peer)) for name, peer in peers.items()}
        self._counter = threading.Thread(target=self._count, name="outbox-counts", daemon=True)

    def start(self) -> None:
        """Begin to deliver, also what an earlier run left."""
        for lane in self._lanes.values():
            lane.thread.start()
        self._counter.start()

    def wake(self) -> None:
        """Something new was written."""
        for lane in self._lanes.values():
            lane.woken.set()

    def close(self) -> None:
        """Finish what is being sent; the rest waits for the next start. Blocks."""
        self._closing.set()
        self.wake()
        for lane in self._lanes.values():
            if lane.thread.ident is not None:
                lane.thread.join()
        if self._counter.ident is not None:
            self._counter.join()

    # What a lane does

    @property
    def closing(self) -> bool:
        """Whether it is time to stop."""
        return self._closing.is_set()

    def closed(self, seconds: float) -> bool:
        """Wait so long for the time to stop."""
        return self._closing.wait(seconds)

    def claim(self, name: str) -> list[Item]:
        """What is due to go to ``name``."""
        return self._outbox.claim(name, GROUP, self._clock(), self._pace.lease_seconds)

    def settle(self, sent: Sent) -> None:
        """Write down one outcome."""
        item, now = sent.item, self._clock()
        name, kind = item.parcel.destination, item.parcel.object
        problem = sent.problem or "unknown"
        age = (now - item.created_at).total_seconds()
        if sent.outcome is Outcome.DELIVERED:
            self._outbox.delivered(item, now, self._tell_of(item))
            self._metrics.observe(c.OUTBOX_LAG, age, name)
            self._metrics.count(c.OUTBOX_DELIVERIES, name, kind, "delivered")
            if kind == AUDIT:
                self._metrics.set(c.AUDIT_LAST, now.timestamp())
            return
        if kind == AUDIT:
            self._metrics.count(c.AUDIT_FAILURES)
        if sent.outcome is Outcome.NEVER or age > self._pace.give_up_seconds:
            self._outbox.gave_up(item, problem, now)
            self._metrics.count(c.OUTBOX_DELIVERIES, name, kind, "dead")
            structlog.get_logger().error(
                "delivery given up", peer=name, object=kind, problem=problem, item=item.id,
                attempts=item.attempts,
            )  # fmt: skip
        else:
            # While the peer is down its lane waits, not each object: all go once it is back.
            pause = self.pause(1 if sent.peer_down else item.attempts)
            self._outbox.failed(item, problem, now + timedelta(seconds=pause))
            self._metrics.count(c.OUTBOX_DELIVERIES, name, kind, "retried")

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row: doubled each time, up to the longest."""
        first, longest = self._pace.first_wait_seconds, self._pace.longest_wait_seconds
        return float(min(longest, first * 2 ** min(failures - 1, 32)))

    def _count(self) -> None:
        seen: set[tuple[str, str]] = set()
        while True:
            try:
                counts = self._outbox.counts()
            except SQLAlchemyError:
                counts = None
            if counts is not None:
                seen |= self._tell(counts, seen)
            if self._closing.wait(COUNT_SECONDS):
                return

    def _tell(self, counts: list[Count], seen: set[tuple[str, str]]) -> set[tuple[str, str]]:
        values: dict[tuple[str, str], int] = dict.fromkeys(seen, 0)
        oldest: dict[str, float] = dict.fromkeys(self._lanes, 0.0)
        now = self._clock()
        for count in counts:
            state = (
                "dead" if count.state is State.DEAD else "retrying" if count.tried else "waiting"
            )
            key = count.destination, state
            values[key] = values.get(key, 0) + count.objects
            if count.state is not State.DEAD:
                age = (now - count.oldest).total_seconds()
                oldest[count.destination] = max(oldest.get(count.destination, 0.0), age)
        for (name, state), objects in values.items():
            self._metrics.set(c.OUTBOX_ITEMS, objects, name, state)
        for name, age in oldest.items():
            self._metrics.set(c.OUTBOX_OLDEST, age, name)
        return set(values)


class _Lane:
    """One destination's thread."""

    def __init__(self, delivery: Delivery, name: str, make: Callable[[], Sender]) -> None:
        self._delivery = delivery
        self._name = name
        self._make = make
        self.woken = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"to-{name}", daemon=True)

    def _run(self) -> None:
        delivery = self._delivery
        sender: Sender | None = None
        failures = 0
        while not delivery.closing:
            try:
                items = delivery.claim(self._name)
                if not items:
                    self._rest(LOOK_SECONDS)
                    continue
                sender = sender or self._make()
                reached = self._send(sender, items)
            except SQLAlchemyError as error:  # the database will be back, and so shall we
                structlog.get_logger().error(
                    "outbox unusable", peer=self._name, error=type(error).__name__
                )
                reached = False
            failures = 0 if reached else failures + 1
            if failures:
                self._sleep(delivery.pause(failures))
        if sender is not None:
            sender.close()

    def _send(self, sender: Sender, items: list[Item]) -> bool:
        """Whether the peer could be reached. Every item is settled."""
        left = {item.id: item for item in items}
        try:
            for sent in sender.send(items):
                self._delivery.settle(sent)
                del left[sent.item.id]
            return True
        except Unreachable as unreachable:
            problem = str(unreachable)
        except SQLAlchemyError:
            raise
        except Exception as error:  # a library's fault must not end the thread
            problem = "sender-failed"
            structlog.get_logger().error(problem, peer=self._name, error=type(error).__name__)
            # It was the first's turn: let it wait for longer each time, so that others go by.
            culprit = left.pop(next(iter(left)))
            self._delivery.settle(Sent(culprit, Outcome.LATER, problem))
        structlog.get_logger().warning("peer unreachable", peer=self._name, problem=problem)
        sender.close()
        for item in left.values():
            self._delivery.settle(Sent(item, Outcome.LATER, problem, peer_down=True))
        return False

    def _rest(self, seconds: float) -> None:
        self.woken.wait(seconds)
        self.woken.clear()

    def _sleep(self, seconds: float) -> None:
        """Not woken by new objects: the peer is down for them as well."""
        self._delivery.closed(seconds)
