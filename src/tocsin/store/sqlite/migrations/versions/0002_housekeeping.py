"""What the store keeps about itself: how much was brought back to life, and room to try writing in."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "housekeeping",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer),
        sa.Column("filling", sa.LargeBinary),
    )
