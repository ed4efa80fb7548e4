"""Requests and cases."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "requests",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("client", sa.String(128), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("problem", sa.String(32)),
        sa.Column("model", sa.String(64)),
        sa.Column("bundle", sa.String(80)),
        sa.Column("verdict", sa.String(16)),
        sa.Column("route", sa.String(16)),
        sa.Column("reason", sa.String(128)),
        sa.Column("bypass", sa.Boolean, nullable=False),
        sa.Column("label", sa.String(256)),
        sa.Column("probabilities", sa.JSON),
        sa.Column("p_value", sa.Float),
        sa.Column("quality_p_value", sa.Float),
        sa.Column("detectors", sa.JSON),
        sa.Column("pixels", sa.String(80)),
        sa.Column("media_type", sa.String(64)),
        sa.Column("timing_ms", sa.JSON),
        sa.Column("case_id", sa.String(32)),
    )
    op.create_index("requests_by_request_id", "requests", ["request_id"])
    op.create_index("requests_by_time", "requests", ["at"])
    op.create_table(
        "cases",
        sa.Column("case_id", sa.String(32), primary_key=True),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("route", sa.String(16), nullable=False),
        sa.Column("evidence", sa.JSON, nullable=False),
        sa.Column("media_type", sa.String(64), nullable=False),
        sa.Column("image", sa.LargeBinary, nullable=False),
    )
    op.create_index("cases_by_state", "cases", ["state", "opened_at"])


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("cases")
    op.drop_table("requests")
