"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "event",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", sa.String(36), nullable=False, unique=True),
        sa.Column("owner", sa.String(36), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("urgent", sa.SmallInteger, nullable=False),
        sa.Column("accepted_ms", sa.Integer, nullable=False),
        sa.Column("expires_ms", sa.Integer, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("waiting", sa.Integer, nullable=False, server_default="0"),
        sa.Column("dead", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(32)),
        sa.Column("attempts", sa.Text),
        sa.Column("body", sa.Text),
    )
    op.create_index("event_fresh", "event", ["urgent", "seq", "size"], sqlite_where=sa.text("state = 0"))
    op.create_index("event_dead", "event", ["seq"], sqlite_where=sa.text("state = 3"))
    op.create_table(
        "parked",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("seq", sa.Integer, nullable=False, index=True),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("urgent", sa.SmallInteger, nullable=False),
        sa.Column("due_ms", sa.Integer, nullable=False),
        sa.Column("expires_ms", sa.Integer, nullable=False, index=True),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("targets", sa.Text, nullable=False),
        sa.Column("claimed", sa.SmallInteger, nullable=False, server_default="0"),
    )
    op.create_index("parked_due", "parked", ["lane", "urgent", "due_ms"], sqlite_where=sa.text("claimed = 0"))
    op.create_table(
        "device",
        sa.Column("owner", sa.String(36), primary_key=True),
        sa.Column("system", sa.String(8), primary_key=True),
        sa.Column("token", sa.Text, primary_key=True),
        sa.Column("application_id", sa.Text),
        sa.Column("sandbox", sa.Boolean, nullable=False, server_default="0"),
        sa.Column("apns_topic", sa.Text),
        sa.Column("registered_us", sa.Integer, nullable=False),
        sa.Column("learned_sandbox", sa.Boolean),
        sa.Column("learned_project", sa.Text),
        sa.Column("learned_field", sa.Text),
        sa.Column("last_success_ms", sa.Integer),
        sqlite_with_rowid=False,
    )
    op.create_index("device_token", "device", ["token", "system"])
    op.create_table(
        "removal",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("owner", sa.String(36), nullable=False, index=True),
        sa.Column("system", sa.String(8), nullable=False),
        sa.Column("token", sa.Text, nullable=False, index=True),
        sa.Column("application", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("removed_ms", sa.Integer, nullable=False, index=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("quarantined", sa.Boolean, nullable=False, server_default="0"),
    )
    op.create_table(
        "session",
        sa.Column("hash", sa.LargeBinary(32), primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("owner", sa.String(36), index=True),
        sa.Column("created_ms", sa.Integer, nullable=False),
        sa.Column("expires_ms", sa.Integer),
    )
    op.create_table(
        "api_key",
        sa.Column("hash", sa.LargeBinary(32), primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_ms", sa.Integer, nullable=False),
        sa.Column("expires_ms", sa.Integer),
    )
    op.create_table(
        "application",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("key_pem", sa.Text),
        sa.Column("key_id", sa.Text),
        sa.Column("certificate_pem", sa.Text),
        sa.Column("changed_ms", sa.Integer, nullable=False),
    )
    op.create_table(
        "fcm_project",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("service_account", sa.Text, nullable=False),
        sa.Column("is_default", sa.Boolean, nullable=False, server_default="0"),
        sa.Column("changed_ms", sa.Integer, nullable=False),
    )
