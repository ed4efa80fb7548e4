"""The tables of the records. ``migrations`` creates them; a test holds the two together."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
)


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC, also on SQLite, which forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(
        self,
        value: datetime | None,
        dialect: Dialect,  # noqa: ARG002  SQLAlchemy's signature
    ) -> datetime | None:
        """Give SQLite's moments their zone back."""
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


metadata = MetaData()

requests = Table(
    "requests",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("request_id", String(128), nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("client", String(128), nullable=False),
    Column("status", Integer, nullable=False),
    Column("problem", String(32)),
    Column("model", String(64)),
    Column("bundle", String(80)),
    Column("verdict", String(16)),
    Column("route", String(16)),
    Column("reason", String(128)),
    Column("bypass", Boolean, nullable=False),
    Column("label", String(256)),
    Column("probabilities", JSON(none_as_null=True)),
    Column("p_value", Float),
    Column("quality_p_value", Float),
    Column("fused_score", Float),
    Column("quality_score", Float),
    Column("detectors", JSON(none_as_null=True)),
    Column("pixels", String(80)),
    Column("decoding", String(80)),
    Column("media_type", String(64)),
    Column("timing_ms", JSON(none_as_null=True)),
    Column("case_id", String(32)),
    Index("requests_by_request_id", "request_id"),
    Index("requests_by_time", "at"),
)
"""One row an answer of ``POST /diagnose``. ``pixels`` is the digest of the decoded image, and
``decoding`` the fingerprint of how it was decoded."""

cases = Table(
    "cases",
    metadata,
    Column("case_id", String(32), primary_key=True),
    Column("request_id", String(128), nullable=False),
    Column("opened_at", UtcTime, nullable=False),
    Column("state", String(16), nullable=False),
    Column("model", String(64), nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("route", String(16), nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("media_type", String(64), nullable=False),
    Column("image", LargeBinary, nullable=False),
    Column("claimed_by", String(128)),
    Column("claimed_at", UtcTime),
    Index("cases_by_state", "state", "opened_at"),
)
"""One row a held image; ``service.case_states`` is the life of ``state``. ``image`` is the file as
it was sent, empty once it is not kept any more."""

reviews = Table(
    "reviews",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("case_id", String(32), nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("by", String(128), nullable=False),
    Column("event", String(16), nullable=False),
    Column("note", String(1000)),
    Index("reviews_by_case", "case_id"),
)
"""One row a step of a case, never changed: who did what to it, and what they noted."""

drift_cursors = Table(
    "drift_cursors",
    metadata,
    Column("basis", String(80), primary_key=True),
    Column("last_id", Integer, nullable=False),
)
"""Up to which request the drift tests of one bundle, at its levels, have read."""

drift_tests = Table(
    "drift_tests",
    metadata,
    Column("basis", String(80), primary_key=True),
    Column("source", String(128), primary_key=True),
    Column("model", String(64), nullable=False),
    Column("bundle", String(80), nullable=False),
    Column("begun_at", UtcTime, nullable=False),
    Column("drifted_at", UtcTime),
    Column("test", JSON, nullable=False),
)
"""One row a source; ``test`` is ``detectors.drift.DriftTest``."""

instances = Table(
    "instances",
    metadata,
    Column("key", String(128), primary_key=True),
    Column("request_id", String(128), nullable=False),
    Column("at", UtcTime, nullable=False),
)
"""One row a judged DICOM instance, by its key in the spool: none is judged twice."""

outbox = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("request_id", String(128)),
    Column("destination", String(32), nullable=False),
    Column("object", String(16), nullable=False),
    Column("media_type", String(64), nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("problem", String(64)),
    Column("created_at", UtcTime, nullable=False),
    Column("due_at", UtcTime, nullable=False),
    Column("settled_at", UtcTime),
    Index("outbox_by_due", "destination", "state", "due_at"),
)
"""One row an object for one destination; ``service.pacs.outbox_states`` is the life of ``state``.
``due_at`` is when it may be sent next or, while it is being sent, when others may take over.
Delivered content is emptied."""
