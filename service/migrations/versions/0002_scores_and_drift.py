"""Fused and quality scores of a request; the drift tests."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add two columns and two tables."""
    with op.batch_alter_table("requests") as requests:
        requests.add_column(sa.Column("fused_score", sa.Float))
        requests.add_column(sa.Column("quality_score", sa.Float))
    op.create_table(
        "drift_cursors",
        sa.Column("basis", sa.String(80), primary_key=True),
        sa.Column("last_id", sa.Integer, nullable=False),
    )
    op.create_table(
        "drift_tests",
        sa.Column("basis", sa.String(80), primary_key=True),
        sa.Column("source", sa.String(128), primary_key=True),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("bundle", sa.String(80), nullable=False),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("drifted_at", sa.DateTime(timezone=True)),
        sa.Column("test", sa.JSON, nullable=False),
    )


def downgrade() -> None:
    """Take them away."""
    op.drop_table("drift_tests")
    op.drop_table("drift_cursors")
    with op.batch_alter_table("requests") as requests:
        requests.drop_column("quality_score")
        requests.drop_column("fused_score")
