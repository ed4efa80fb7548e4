"""What is to be sent is sent, whatever fails; each change of its state is one of the table."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, select, update
from typer.testing import CliRunner

from service.cli import app
from service.metrics import Metrics
from service.pacs.delivery import Delivery
from service.pacs.outbox import Item, Outbox, Parcel
from service.pacs.outbox_states import TRANSITIONS, Event, State, after
from service.pacs.peers import DimsePeer
from service.pacs.routes import Delivery as Pace
from service.pacs.senders import Outcome, Sent, Unreachable
from service.records import AlreadyRecorded, Record, Records
from service.tables import instances, outbox, requests

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LEASE = 60.0


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def parcel(content: bytes = b"x", destination: str = "archive") -> Parcel:
    return Parcel(destination, "sr", "application/dicom", content)


@pytest.fixture
def records(database: str) -> Iterator[Records]:
    records = Records(database)
    records.open()
    records.start()
    yield records
    records.close()


@pytest.fixture
def box(records: Records) -> Outbox:
    return Outbox(records.engine)


def put_into(box: Outbox, state: State) -> Item:
    """One object, taken to a state by the table's own ways."""
    box.add([parcel()], NOW)
    item = Item(0, parcel(), 0, NOW)
    if state is State.WAITING:
        return item
    (item,) = box.claim("archive", 1, NOW, LEASE)
    if state is State.DELIVERED:
        assert box.delivered(item, NOW)
    if state is State.DEAD:
        assert box.gave_up(item, "word", NOW)
    return item


def happen(box: Outbox, event: Event, item: Item) -> bool:
    """Whether an event did anything."""
    match event:
        case Event.CLAIM:
            return len(box.claim("archive", 1, NOW, LEASE)) == 1
        case Event.TAKE_OVER:
            return len(box.claim("archive", 1, later(LEASE + 1), LEASE)) == 1
        case Event.DELIVER:
            return box.delivered(item, NOW)
        case Event.FAIL:
            return box.failed(item, "word", later(5))
        case Event.GIVE_UP:
            return box.gave_up(item, "word", NOW)
        case Event.REDRIVE:
            return box.redrive(None, NOW) == 1


def state_of(records: Records) -> State:
    with records.engine.connect() as connection:
        return State(connection.scalar(select(outbox.c.state)))


def test_every_event_in_every_state_does_what_the_table_says(records: Records, box: Outbox) -> None:
    for state in State:
        for event in Event:
            with records.engine.begin() as connection:
                connection.execute(delete(outbox))
            item = put_into(box, state)
            expected = TRANSITIONS.get((state, event))
            if (state, event) == (State.WAITING, Event.TAKE_OVER):
                expected = State.SENDING  # it is claimed, which comes to the same
            assert happen(box, event, item) == (expected is not None), (state, event)
            assert state_of(records) is (expected or state), (state, event)


def test_every_event_has_one_entry() -> None:
    assert sorted(event for _, event in TRANSITIONS) == sorted(Event)
    assert after(Event.REDRIVE) == (State.DEAD, State.WAITING)


def test_what_was_taken_over_can_no_longer_be_settled_by_the_first(box: Outbox) -> None:
    first = put_into(box, State.SENDING)
    assert box.claim("archive", 1, later(1), LEASE) == []
    (second,) = box.claim("archive", 1, later(LEASE + 1), LEASE)
    assert not box.delivered(first, later(LEASE + 2))
    assert not box.gave_up(first, "word", later(LEASE + 2))
    assert box.delivered(second, later(LEASE + 2))


def test_two_claim_at_once_and_nothing_is_claimed_twice(box: Outbox) -> None:
    box.add([parcel(bytes([i])) for i in range(60)], NOW)
    found: list[int] = []
    lock = threading.Lock()

    def take() -> None:
        while items := box.claim("archive", 4, NOW, LEASE):
            with lock:
                found.extend(item.id for item in items)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(set(found)) == 60


def test_what_is_told_of_a_delivery_is_written_with_it(box: Outbox) -> None:
    first = put_into(box, State.SENDING)
    (second,) = box.claim("archive", 1, later(LEASE + 1), LEASE)
    assert not box.delivered(first, later(LEASE + 2), [parcel(destination="atna")])
    assert box.claim("atna", 5, later(LEASE + 3), LEASE) == []
    assert box.delivered(second, later(LEASE + 2), [parcel(destination="atna")])
    assert len(box.claim("atna", 5, later(LEASE + 3), LEASE)) == 1


def test_delivered_content_is_not_kept(records: Records, box: Outbox) -> None:
    box.delivered(put_into(box, State.SENDING), NOW)
    with records.engine.connect() as connection:
        assert connection.scalar(select(outbox.c.content)) == b""


def test_rows_are_written_with_their_record_or_not_at_all(records: Records) -> None:
    def record(number: int, key: str) -> Record:
        rows = (
            (instances, {"key": key, "request_id": f"r{number}", "at": NOW}),
            parcel().row(f"r{number}", NOW),
        )
        return Record(f"r{number}", "pacs", 200, rows=rows)

    async def scenario() -> list[BaseException | None]:
        plain = [Record(f"plain{i}", "ana", 200) for i in range(20)]
        twice = [record(1, "same"), record(2, "same"), record(3, "other")]
        writes = [records.write(entry) for entry in (*plain[:10], *twice, *plain[10:])]
        return await asyncio.gather(*writes, return_exceptions=True)

    found = asyncio.run(scenario())
    assert [type(e) for e in found if e is not None] == [AlreadyRecorded]
    with records.engine.connect() as connection:
        written = set(connection.scalars(select(requests.c.request_id)))
        parcels = sorted(connection.scalars(select(outbox.c.request_id)))
    assert len(written) == 22
    assert len(parcels) == 2
    assert "r3" in parcels


class Fake:
    """A peer that can be down, busy, or against an object; a fault that no server shows at will."""

    def __init__(self) -> None:
        self.down = 0
        self.busy = 0
        self.got: list[bytes] = []

    def send(self, items: Sequence[Item]) -> Iterator[Sent]:
        if self.down > 0:
            self.down -= 1
            raise Unreachable("unreachable")
        for item in items:
            content = item.parcel.content
            if content == b"refused":
                yield Sent(item, Outcome.NEVER, "status-A900")
            elif content == b"fault":
                raise KeyError("a library's fault")
            elif content == b"busy" and self.busy > 0:
                self.busy -= 1
                yield Sent(item, Outcome.LATER, "status-A700")
            else:
                self.got.append(content)
                yield Sent(item, Outcome.DELIVERED)

    def close(self) -> None: ...


QUICK = Pace(first_wait_seconds=0.02, longest_wait_seconds=0.05, give_up_seconds=30)
PEER = DimsePeer(kind="dimse", ae_title="A", host="h", port=104)


def run_until_settled(box: Outbox, fake: Fake, pace: Pace = QUICK, seconds: float = 20) -> Metrics:
    metrics = Metrics()
    delivery = Delivery(box, {"archive": PEER}, pace, metrics, make=lambda _: fake)
    delivery.start()
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    while any(count.state is not State.DEAD for count in box.counts()):
        assert datetime.now(UTC) < until, box.counts()
        threading.Event().wait(0.05)
        delivery.wake()
    delivery.close()
    return metrics


def test_a_peer_that_was_down_gets_everything_once(box: Outbox) -> None:
    now = datetime.now(UTC)
    contents = [str(i).encode() for i in range(40)]
    box.add([parcel(content) for content in contents], now)
    fake = Fake()
    fake.down = 5
    run_until_settled(box, fake)
    assert sorted(fake.got) == sorted(contents)
    assert box.dead() == []


def test_a_refused_object_is_a_dead_letter_and_holds_up_no_other(box: Outbox) -> None:
    now = datetime.now(UTC)
    box.add([parcel(b"1"), parcel(b"refused"), parcel(b"busy"), parcel(b"2")], now)
    fake = Fake()
    fake.busy = 2
    metrics = run_until_settled(box, fake)
    assert sorted(fake.got) == [b"1", b"2", b"busy"]
    (letter,) = box.dead()
    assert letter["problem"] == "status-A900"
    value = metrics.registry.get_sample_value
    labels = {"peer": "archive", "object": "sr"}
    name = "lazaret_outbox_deliveries_total"
    assert value(name, {**labels, "outcome": "delivered"}) == 3
    assert value(name, {**labels, "outcome": "dead"}) == 1
    assert value(name, {**labels, "outcome": "retried"}) == 2
    assert box.redrive("elsewhere", now) == 0
    assert box.redrive("archive", now) == 1


def test_a_fault_in_a_sender_ends_no_thread(box: Outbox) -> None:
    now = datetime.now(UTC)
    box.add([parcel(b"1"), parcel(b"fault"), parcel(b"2")], now)
    fake = Fake()
    run_until_settled(box, fake, QUICK.model_copy(update={"give_up_seconds": 0.5}))
    assert b"1" in fake.got
    assert any(letter["problem"] == "sender-failed" for letter in box.dead())


def test_after_long_enough_it_is_given_up(records: Records, box: Outbox) -> None:
    box.add([parcel()], datetime.now(UTC))
    with records.engine.begin() as connection:
        connection.execute(update(outbox).values(created_at=datetime.now(UTC) - timedelta(days=4)))
    fake = Fake()
    fake.down = 1_000
    run_until_settled(box, fake)
    assert [letter["problem"] for letter in box.dead()] == ["unreachable"]


def test_waits_double_up_to_the_longest(box: Outbox) -> None:
    pace = Pace(first_wait_seconds=5, longest_wait_seconds=60)
    delivery = Delivery(box, {}, pace, Metrics())
    assert [delivery.pause(n) for n in (1, 2, 3, 4, 5, 1000)] == [5, 10, 20, 40, 60, 60]


def test_redrive_by_command_line_revives_dead_letters(database: str, box: Outbox) -> None:
    def lazaret(*words: str) -> tuple[int, str]:
        said = CliRunner().invoke(app, ["pacs", *words, "--database", database])
        return said.exit_code, said.output

    assert lazaret("outbox") == (0, "Everything is delivered.\n")
    put_into(box, State.DEAD)
    code, output = lazaret("outbox")
    assert code == 1
    assert "word" in output
    assert lazaret("redrive", "elsewhere") == (0, "0 dead letters wait to be sent again.\n")
    assert lazaret("redrive", "archive") == (0, "1 dead letters wait to be sent again.\n")
    assert len(box.claim("archive", 5, datetime.now(UTC), LEASE)) == 1


def test_what_was_delivered_long_ago_is_removed_and_nothing_else(
    records: Records, box: Outbox
) -> None:
    put_into(box, State.DELIVERED)
    put_into(box, State.DEAD)
    put_into(box, State.WAITING)
    with records.engine.begin() as connection:
        for key in ("old", "old-in-spool", "new"):
            at = NOW if key.startswith("old") else later(100)
            row = {"key": key, "request_id": "r", "at": at}
            connection.execute(instances.insert(), row)
    assert box.purge(NOW, lambda _: False) == 0
    assert box.purge(later(50), lambda key: key == "old-in-spool") == 2
    with records.engine.connect() as connection:
        assert set(connection.scalars(select(outbox.c.state))) == {"dead", "waiting"}
        assert set(connection.scalars(select(instances.c.key))) == {"old-in-spool", "new"}
