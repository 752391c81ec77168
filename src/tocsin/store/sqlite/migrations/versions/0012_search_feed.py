"""What the index of the search has to look at: the numbers of events that were settled, a row for each settlement."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "search_feed",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("seqs", sa.Text, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("at_ms", sa.Integer, nullable=False),
    )
