"""Keys may be limited: to events and a rate, to reading, or to a part of the operator's routes."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_key", sa.Column("limits", sa.Text))
