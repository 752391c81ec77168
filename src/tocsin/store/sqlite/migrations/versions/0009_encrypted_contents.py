"""Contents of events are encrypted. Those that are there are in clear until the store's opening has encrypted them."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("event", sa.Column("content_key_id", sa.Integer))
    op.create_table(
        "content_key",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("from_ms", sa.Integer, nullable=False),
        sa.Column("until_ms", sa.Integer, nullable=False),
        sa.Column("closed", sa.Boolean, nullable=False, server_default="0"),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "kept_key",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "pseudonym",
        sa.Column("owner", sa.String(36), primary_key=True),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
    )
    # The newest event is never deleted: a store without events has never had any.
    op.execute("INSERT INTO housekeeping(name, number) SELECT 'in_clear', 0 WHERE EXISTS (SELECT 1 FROM event)")
