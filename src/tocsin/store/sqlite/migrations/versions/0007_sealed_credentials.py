"""Credentials are encrypted: by which master key. Those without one are in clear until the store is next opened."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("credential", sa.Column("key_id", sa.Text))
