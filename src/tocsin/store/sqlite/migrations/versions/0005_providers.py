"""Devices with an address that only their provider reads, credentials by provider, rounds, signals and jobs."""

from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_JSON: Final = msgspec.json.Encoder().encode


def _address(
    application_id: str | None,
    sandbox: bool | None,
    topic: str | None,
    learned_sandbox: bool | None,
    learned_project: str | None,
    learned_field: str | None,
) -> str:
    """As `providers.apns.address` and `providers.fcm.address` write it in this version."""
    fields: dict[str, Any] = {}
    if application_id is not None:
        fields["application"] = application_id
    if sandbox:
        fields["sandbox"] = "true"
    if topic is not None:
        fields["topic"] = topic
    if learned_sandbox is not None:
        fields["learned_sandbox"] = "true" if learned_sandbox else "false"
    if learned_project is not None:
        fields["project"] = learned_project
    if learned_field is not None:
        fields["field"] = learned_field
    return urlencode(fields)


def _removed(device: str) -> str:
    """A device as `removal` keeps it: from eleven fields to seven. The time of registration is its generation."""
    owner, system, token, application_id, sandbox, topic, registered_us, *learned = msgspec.json.decode(device)
    address = _address(application_id, sandbox, topic, *learned[:3])
    success_ms = learned[3] if len(learned) > 3 else None
    return _JSON([owner, system, token, address, registered_us, registered_us, success_ms]).decode()


def _apns_content(key_pem: str | None, key_id: str | None, certificate_pem: str | None) -> bytes:
    fields = {"key_pem": key_pem, "key_id": key_id, "certificate_pem": certificate_pem}
    return _JSON({name: value for name, value in fields.items() if value is not None})


def upgrade() -> None:
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.create_function("address", 6, _address, deterministic=True)
    driver.create_function("removed_device", 1, _removed, deterministic=True)
    driver.create_function("apns_content", 3, _apns_content, deterministic=True)
    _devices()
    _removals()
    _credentials()
    op.add_column("event", sa.Column("round", sa.SmallInteger, nullable=False, server_default="0"))
    op.create_table(
        "signal",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("at_ms", sa.Integer, nullable=False),
    )
    op.create_table(
        "job",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("arguments", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_ms", sa.Integer, nullable=False),
        sa.Column("changed_ms", sa.Integer, nullable=False),
        sa.Column("position", sa.Text, nullable=False),
        sa.Column("done", sa.Integer, nullable=False),
        sa.Column("skipped", sa.Integer, nullable=False),
        sa.Column("total", sa.Integer),
        sa.Column("error", sa.Text, nullable=False),
    )
    for function, arguments in (("address", 6), ("removed_device", 1), ("apns_content", 3)):
        driver.create_function(function, arguments, None)


def _devices() -> None:
    op.rename_table("device", "device_before")
    op.drop_index("device_token", "device_before")
    op.create_table(
        "device",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("owner", sa.String(36), nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("registered_us", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("last_success_ms", sa.Integer),
    )
    op.execute(
        "INSERT INTO device(id, owner, provider, token, address, registered_us, generation, last_success_ms) "
        "SELECT id, owner, system, token, address(application_id, sandbox, apns_topic, "
        "learned_sandbox, learned_project, learned_field), registered_us, registered_us, last_success_ms "
        "FROM device_before ORDER BY id"
    )
    op.drop_table("device_before")
    op.create_index("device_token", "device", ["token", "provider", "owner"], unique=True)


def _removals() -> None:
    with op.batch_alter_table("removal") as removal:
        removal.alter_column("system", new_column_name="provider", type_=sa.Text)
        removal.alter_column("application", new_column_name="account")
    op.execute("UPDATE removal SET device = removed_device(device)")
    op.create_index(
        "removal_quarantined",
        "removal",
        ["provider", "account", "removed_ms"],
        sqlite_where=sa.text("quarantined = 1"),
    )


def _credentials() -> None:
    op.create_table(
        "credential",
        sa.Column("provider", sa.Text, primary_key=True),
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("is_default", sa.Boolean, nullable=False, server_default="0"),
        sa.Column("changed_ms", sa.Integer, nullable=False),
    )
    op.execute(
        "INSERT INTO credential(provider, account, content, is_default, changed_ms) "
        "SELECT 'apns', id, apns_content(key_pem, key_id, certificate_pem), "
        "row_number() OVER (ORDER BY id) = 1, changed_ms FROM application"
    )
    op.execute(
        "INSERT INTO credential(provider, account, content, is_default, changed_ms) "
        "SELECT 'fcm', name, CAST(service_account AS BLOB), is_default, changed_ms FROM fcm_project"
    )
    op.drop_table("application")
    op.drop_table("fcm_project")
