"""Devices lie at an integer made from their owner: a look-up reads half the pages."""

from typing import Final
from zlib import crc32

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COLUMNS: Final = (
    "owner, system, token, application_id, sandbox, apns_topic, registered_us, "
    "learned_sandbox, learned_project, learned_field, last_success_ms"
)


def _owner_key(owner: str) -> int:
    return crc32(owner.encode()) * 2**31


def upgrade() -> None:
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.create_function("owner_key", 1, _owner_key, deterministic=True)
    op.rename_table("device", "device_before")
    op.drop_index("device_token", "device_before")
    op.create_table(
        "device",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("owner", sa.String(36), nullable=False),
        sa.Column("system", sa.String(8), nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("application_id", sa.Text),
        sa.Column("sandbox", sa.Boolean, nullable=False, server_default="0"),
        sa.Column("apns_topic", sa.Text),
        sa.Column("registered_us", sa.Integer, nullable=False),
        sa.Column("learned_sandbox", sa.Boolean),
        sa.Column("learned_project", sa.Text),
        sa.Column("learned_field", sa.Text),
        sa.Column("last_success_ms", sa.Integer),
    )
    op.execute(
        f"INSERT INTO device(id, {_COLUMNS}) SELECT key + row_number() OVER (PARTITION BY key) - 1, {_COLUMNS} "
        "FROM (SELECT owner_key(owner) AS key, * FROM device_before) ORDER BY 1"
    )
    op.drop_table("device_before")
    op.create_index("device_token", "device", ["token", "system", "owner"], unique=True)
    driver.create_function("owner_key", 1, None)
