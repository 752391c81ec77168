"""When an event was settled: its age counts from then. What is settled already has the time of its last receipt."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Not filled in: that would write a large table anew.
    op.add_column("event", sa.Column("settled_ms", sa.Integer))
