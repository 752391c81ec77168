"""What finds the sessions and removals that are to be forgotten."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_session_expires_ms", "session", ["expires_ms"])
    op.drop_index("ix_removal_removed_ms", "removal")
    op.create_index("removal_old", "removal", ["removed_ms"], sqlite_where=sa.text("quarantined = 0"))
