"""Who looks at a case, and what was decided."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add two columns and a table."""
    with op.batch_alter_table("cases") as cases:
        cases.add_column(sa.Column("claimed_by", sa.String(128)))
        cases.add_column(sa.Column("claimed_at", sa.DateTime(timezone=True)))
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("case_id", sa.String(32), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by", sa.String(128), nullable=False),
        sa.Column("event", sa.String(16), nullable=False),
        sa.Column("note", sa.String(1000)),
    )
    op.create_index("reviews_by_case", "reviews", ["case_id"])


def downgrade() -> None:
    """Take them away."""
    op.drop_table("reviews")
    with op.batch_alter_table("cases") as cases:
        cases.drop_column("claimed_at")
        cases.drop_column("claimed_by")
