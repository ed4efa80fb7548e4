"""An answer that left must be found again; one that cannot be recorded must not leave."""

import asyncio

import pytest
from sqlalchemy import func, inspect, select, text

from service.records import NewCase, Record, Records, RecordsProblem, connect, migrate
from service.tables import metadata, requests


def opened(url: str) -> Records:
    records = Records(url)
    records.open()
    records.start()
    return records


def record(number: int, case: bool = False) -> Record:
    held = NewCase(f"{number:032x}", "adversarial", {"p": 0.001}, "image/png", b"bytes")
    return Record(
        f"r{number}", "ana", 200, model="tiny", verdict="flag" if case else "accept",
        case=held if case else None,
    )  # fmt: skip


def test_many_records_are_durable_when_their_writes_return(database: str) -> None:
    async def scenario() -> None:
        records = opened(database)
        await asyncio.gather(*(records.write(record(i, case=i % 10 == 0)) for i in range(300)))
        with connect(database).connect() as other:
            assert other.scalar(select(func.count()).select_from(requests)) == 300
            if other.dialect.name == "sqlite":
                assert other.scalar(text("PRAGMA journal_mode")) == "wal"
                assert other.scalar(text("PRAGMA synchronous")) == 2
            else:
                assert other.scalar(text("SHOW synchronous_commit")) == "on"
        assert len(records.cases("open", 500)) == 30
        assert records.cases("released", 500) == []
        case = records.case(f"{10:032x}")
        assert case is not None
        assert case.request_id == "r10"
        assert case.opened_at.tzinfo is not None
        assert records.case_image(f"{10:032x}") == ("image/png", b"bytes")
        records.close()

    asyncio.run(scenario())


def test_a_failing_database_is_told_to_the_caller(database: str) -> None:
    async def scenario() -> None:
        records = opened(database)
        with connect(database).begin() as other:
            other.execute(text("ALTER TABLE requests RENAME TO elsewhere"))
        with pytest.raises(RecordsProblem, match=r"no such table|does not exist"):
            await records.write(record(1))
        with connect(database).begin() as other:
            other.execute(text("ALTER TABLE elsewhere RENAME TO requests"))
        await records.write(record(2))
        records.close()

    asyncio.run(scenario())


def test_migrations_make_the_tables_of_the_code(database: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = connect(database)
    migrate(engine)
    migrate(engine)  # starting again changes nothing
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert "cases_by_state" in {i["name"] for i in inspect(connection).get_indexes("cases")}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "memory"),
        ("nonsense", "sqlite:///PATH"),
        ("postgresql+psycopg2://u:secret@h/d", "psycopg"),
        ("postgresql+psycopg://u:secret@127.0.0.1:1/d", "may be written"),
        ("sqlite:////proc/none/r.sqlite3", "may be written"),
    ],
)
def test_an_unusable_database_is_a_sentence(url: str, words: str) -> None:
    with pytest.raises(RecordsProblem, match=words) as found:
        Records(url).open()
    assert "secret" not in str(found.value)
