"""How an image was decoded."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the fingerprint; older answers have none."""
    op.add_column("requests", sa.Column("decoding", sa.String(80)))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("requests", "decoding")
