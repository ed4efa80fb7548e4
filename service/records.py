"""What was answered, on disk before the answer leaves.

One thread writes. It takes whatever is waiting and commits it in one transaction, so that many
requests share one flush of the disk, and only then lets them go.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import (
    Connection,
    Engine,
    Table,
    create_engine,
    event,
    func,
    insert,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from service.case_states import UNDECIDED, State
from service.tables import cases, requests

GROUP = 256
"""Most records in one transaction."""
CASE = [cases.c[name] for name in (
    "case_id", "request_id", "opened_at", "state", "model", "verdict", "route", "evidence",
    "media_type", "claimed_by",
)]  # fmt: skip
"""What ``Case`` holds."""


class RecordsProblem(Exception):
    """The database cannot be used. The message says why."""


class AlreadyRecorded(RecordsProblem):
    """One of the record's further rows is there already; nothing of the record was written."""


@dataclass(frozen=True, slots=True)
class NewCase:
    """A case to be opened together with its record."""

    case_id: str
    route: str
    evidence: dict[str, Any]
    media_type: str
    image: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """One answer. What the walk did not reach is None."""

    request_id: str
    client: str
    status: int
    problem: str | None = None
    model: str | None = None
    bundle: str | None = None
    verdict: str | None = None
    route: str | None = None
    reason: str | None = None
    bypass: bool = False
    label: str | None = None
    probabilities: dict[str, float | None] | None = None
    p_value: float | None = None
    quality_p_value: float | None = None
    fused_score: float | None = None
    quality_score: float | None = None
    detectors: list[dict[str, Any]] | None = None
    pixels: str | None = None
    decoding: str | None = None
    media_type: str | None = None
    timing_ms: dict[str, float] | None = None
    case_id: str | None = None
    """The case that it belongs to: its own, or the incident of a series of queries."""
    case: NewCase | None = None
    """That case, if this answer opens it."""
    rows: tuple[tuple[Table, dict[str, Any]], ...] = ()
    """Further rows that are committed with it or not at all."""


@dataclass(frozen=True, slots=True)
class Case:
    """A case as it is on record, without its image."""

    case_id: str
    request_id: str
    opened_at: datetime
    state: str
    model: str
    verdict: str
    route: str
    evidence: dict[str, Any]
    media_type: str
    claimed_by: str | None


@dataclass(frozen=True, slots=True)
class _Pending:
    record: Record
    at: datetime
    done: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


class Records:
    """The database. ``open`` and ``start`` before use; ``close`` writes what is waiting.

    Args:
        url: SQLAlchemy's, SQLite or PostgreSQL.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._turns: dict[asyncio.AbstractEventLoop, list[_Pending]] = {}
        """What each event loop's present turn has brought so far."""
        self._waiting: queue.SimpleQueue[list[_Pending] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_forever, name="records", daemon=True)
        self._engine: Engine | None = None
        self._writing: _Writing | None = None

    def open(self) -> None:
        """Connect and bring the tables up to date. Raises ``RecordsProblem``."""
        self._engine = connect(self._url)
        migrate(self._engine)

    def start(self) -> None:
        """Start the writer."""
        self._thread.start()

    async def write(self, record: Record) -> None:
        """Return once the record is durable. Raises ``RecordsProblem`` when it could not be, and
        ``AlreadyRecorded`` when a further row's key is taken."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        turn = self._turns.get(loop)
        if turn is None:
            turn = self._turns[loop] = []
            loop.call_soon(self._end_turn, loop)
        turn.append(_Pending(record, datetime.now(UTC), done, loop))
        await done

    def _end_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand over together what was judged together, so that it shares a transaction."""
        self._waiting.put(self._turns.pop(loop))

    def cases(self, state: str | None, limit: int) -> list[Case]:
        """The newest cases, of one state if given. Blocks."""
        query = select(*CASE).order_by(cases.c.opened_at.desc()).limit(limit)
        if state is not None:
            query = query.where(cases.c.state == state)
        with self._connected().connect() as connection:
            return [Case(**row) for row in connection.execute(query).mappings()]

    def case(self, case_id: str) -> Case | None:
        """One case. Blocks."""
        with self._connected().connect() as connection:
            row = connection.execute(select(*CASE).where(cases.c.case_id == case_id))
            found = row.mappings().first()
        return None if found is None else Case(**found)

    def case_ages(self) -> dict[str, tuple[int, datetime]]:
        """How many cases there are of each state, and when the oldest was opened. Blocks."""
        query = select(cases.c.state, func.count(), func.min(cases.c.opened_at))
        with self._connected().connect() as connection:
            rows = connection.execute(query.group_by(cases.c.state)).all()
        return {state: (count, oldest) for state, count, oldest in rows}

    def open_cases(self, route: str) -> int:
        """How many cases of this route nobody has decided. Blocks."""
        undecided = cases.c.state.in_(UNDECIDED), cases.c.route == route
        query = select(func.count()).select_from(cases).where(*undecided)
        with self._connected().connect() as connection:
            return int(connection.scalar(query) or 0)

    def case_image(self, case_id: str) -> tuple[str, bytes] | None:
        """The media type and content of a held file. Blocks."""
        query = select(cases.c.media_type, cases.c.image).where(cases.c.case_id == case_id)
        with self._connected().connect() as connection:
            row = connection.execute(query).first()
        return None if row is None else (row.media_type, row.image)

    def close(self) -> None:
        """Write what is waiting, stop the writer, disconnect. Blocks."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()
        if self._engine is not None:
            self._engine.dispose()

    @property
    def engine(self) -> Engine:
        """The open database."""
        return self._connected()

    def _connected(self) -> Engine:
        assert self._engine is not None, "open() comes first"
        return self._engine

    def _write_forever(self) -> None:
        try:
            self._write_groups()
        finally:
            self._disconnect()

    def _write_groups(self) -> None:
        while (turn := self._waiting.get()) is not None:
            group, stopping = turn, False
            while len(group) < GROUP and not stopping:
                try:
                    turn = self._waiting.get_nowait()
                except queue.Empty:
                    break
                stopping = turn is None
                group += turn or []
            self._settle_group(group)
            if stopping:
                return

    def _settle_group(self, pending: Sequence[_Pending]) -> None:
        problem = self._commit(pending)
        if isinstance(problem, AlreadyRecorded) and len(pending) > 1:
            for entry in pending:  # one is not new: the others must not suffer
                _resolve([entry], self._commit([entry]))
            return
        _resolve(pending, problem)

    def _commit(self, pending: Sequence[_Pending]) -> RecordsProblem | None:
        opened = [
            _case_row(entry.record, entry.record.case, entry.at)
            for entry in pending
            if entry.record.case is not None
        ]
        try:
            if self._writing is None:
                self._writing = _Writing(self._connected().connect())
            connection = self._writing.connection
            with connection.begin():
                self._writing.insert(pending)
                if opened:
                    connection.execute(insert(cases), opened)
                for entry in pending:
                    for table, row in entry.record.rows:
                        connection.execute(insert(table), row)
        except IntegrityError as error:
            return AlreadyRecorded(_reason(error))
        except Exception as error:  # the writer must outlive any failure of the database
            self._disconnect()
            problem = RecordsProblem(_reason(error))
            structlog.get_logger().error("records failed", records=len(pending), error=_code(error))
            return problem
        return None

    def _disconnect(self) -> None:
        """Let go of the writer's connection; the next group makes another."""
        writing, self._writing = self._writing, None
        if writing is not None:
            with suppress(Exception):  # it may be lost already
                writing.connection.close()


class _Writing:
    """The writer's connection, and the statement for ``requests`` compiled once: to take the one
    from a pool and to make the other for every transaction costs more than writing its rows."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        dialect = connection.dialect
        columns = [column for column in requests.columns if column.name != "id"]
        names = [column.name for column in columns]
        compiled = insert(requests).compile(dialect=dialect, column_keys=names)
        self._text = str(compiled)
        self._positions = compiled.positiontup
        """The order of the parameters; None where they go by name."""
        self._made = {
            column.name: made
            for column in columns
            if (made := column.type.dialect_impl(dialect).bind_processor(dialect)) is not None
        }

    def insert(self, pending: Sequence[_Pending]) -> None:
        """Write the records, in the present transaction."""
        rows = [self._row(entry.record, entry.at) for entry in pending]
        self.connection.exec_driver_sql(self._text, rows)

    def _row(self, record: Record, at: datetime) -> Any:
        """A record as the driver's parameters."""
        values = _row(record, at)
        for name, made in self._made.items():
            values[name] = made(values[name])
        return values if self._positions is None else tuple(map(values.get, self._positions))


def connect(url: str) -> Engine:
    """A database engine; SQLite is made durable and concurrent. Raises ``RecordsProblem``."""
    try:
        parsed = make_url(url)
        engine = create_engine(parsed)
    except (SQLAlchemyError, ImportError) as error:
        raise RecordsProblem(
            f"database: {_reason(error)}; give sqlite:///PATH, or postgresql+psycopg://... after "
            "pip install 'lazaret[postgres]' (psycopg)"
        ) from None
    if engine.dialect.name == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise RecordsProblem("database: records in memory would be lost; give sqlite:///PATH")
        event.listen(engine, "connect", _prepare_sqlite)
    return engine


def migrate(engine: Engine) -> None:
    """Bring the tables up to date. Raises ``RecordsProblem``."""
    # Here, because a service that never opens records (and --help) should not pay for Alembic.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except SQLAlchemyError as error:
        raise RecordsProblem(
            f"database {engine.url.render_as_string()}: {_reason(error)}; see that it is there "
            "and may be written"
        ) from None


def _prepare_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # WAL with NORMAL may lose a commit at power loss
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()


def _row(record: Record, at: datetime) -> dict[str, Any]:
    return {
        "request_id": record.request_id,
        "at": at,
        "client": record.client,
        "status": record.status,
        "problem": record.problem,
        "model": record.model,
        "bundle": record.bundle,
        "verdict": record.verdict,
        "route": record.route,
        "reason": record.reason,
        "bypass": record.bypass,
        "label": record.label,
        "probabilities": record.probabilities,
        "p_value": record.p_value,
        "quality_p_value": record.quality_p_value,
        "fused_score": record.fused_score,
        "quality_score": record.quality_score,
        "detectors": record.detectors,
        "pixels": record.pixels,
        "decoding": record.decoding,
        "media_type": record.media_type,
        "timing_ms": record.timing_ms,
        "case_id": record.case_id,
    }


def _case_row(record: Record, case: NewCase, at: datetime) -> dict[str, Any]:
    return {
        "case_id": case.case_id,
        "request_id": record.request_id,
        "opened_at": at,
        "state": State.OPEN,
        "model": record.model,
        "verdict": record.verdict,
        "route": case.route,
        "evidence": case.evidence,
        "media_type": case.media_type,
        "image": case.image,
    }


def _resolve(pending: Sequence[_Pending], problem: RecordsProblem | None) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for entry in pending:
        by_loop.setdefault(entry.loop, []).append(entry.done)
    for loop, futures in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, futures, problem)


def _settle(futures: Sequence[asyncio.Future[None]], problem: RecordsProblem | None) -> None:
    for done in futures:
        if done.done():  # its request was cancelled
            continue
        if problem is None:
            done.set_result(None)
        else:
            done.set_exception(problem)


def _code(error: Exception) -> str:
    """The database's name for a failure: its text may quote what was to be written."""
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None)
    return f"{type(cause).__name__} {code}" if code else type(cause).__name__


def _reason(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().split("\n")[0] or type(error).__name__
