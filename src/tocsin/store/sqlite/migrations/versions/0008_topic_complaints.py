"""What providers say of single devices, the topics on which devices were reached, and a quarantine for the former."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("device", sa.Column("complaint", sa.Text))
    op.create_index("device_complaint", "device", ["provider"], sqlite_where=sa.text("complaint IS NOT NULL"))
    op.create_table(
        "topic",
        sa.Column("provider", sa.Text, primary_key=True),
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("reached_ms", sa.Integer, nullable=False),
    )
    op.add_column("removal", sa.Column("for_topic", sa.Boolean, nullable=False, server_default="0"))
    op.create_index(
        "removal_by_fuse",
        "removal",
        ["provider", "account"],
        sqlite_where=sa.text("quarantined = 1 AND for_topic = 0"),
    )
