"""The tables, once, for every SQL database. `migrations/` brings a database to them."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData()

event = Table(
    "event",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String(36), nullable=False, unique=True),
    Column("owner", String(36), nullable=False),
    Column("message", Text, nullable=False),
    Column("urgent", SmallInteger, nullable=False),
    Column("accepted_ms", Integer, nullable=False),
    Column("expires_ms", Integer, nullable=False),
    Column("state", SmallInteger, nullable=False, server_default="0"),
    # Parked items that are still outstanding, and whether a device ended in a dead letter.
    Column("waiting", Integer, nullable=False, server_default="0"),
    Column("dead", SmallInteger, nullable=False, server_default="0"),
    Column("size", Integer, nullable=False),
    Column("digest", String(32)),
    # Receipts, as JSON arrays with a comma between them; appended to, never rewritten.
    Column("attempts", Text),
    # The canonical JSON; gone once it is delivered.
    Column("body", Text),
    # What has not been tried at all, in order of acceptance; `size` makes the backlog countable from the index.
    Index("event_fresh", "urgent", "seq", "size", sqlite_where=text("state = 0")),
    Index("event_dead", "seq", sqlite_where=text("state = 3")),
    sqlite_autoincrement=False,
)

parked = Table(
    "parked",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("seq", Integer, nullable=False, index=True),
    Column("lane", Text, nullable=False),
    Column("urgent", SmallInteger, nullable=False),
    Column("due_ms", Integer, nullable=False),
    Column("expires_ms", Integer, nullable=False, index=True),
    Column("tries", Integer, nullable=False),
    Column("targets", Text, nullable=False),
    Column("claimed", SmallInteger, nullable=False, server_default="0"),
    Index("parked_due", "lane", "urgent", "due_ms", sqlite_where=text("claimed = 0")),
)

device = Table(
    "device",
    metadata,
    # Not any number: it begins with a key made from the owner (store/sqlite/registry.py).
    Column("id", Integer, primary_key=True),
    Column("owner", String(36), nullable=False),
    Column("system", String(8), nullable=False),
    Column("token", Text, nullable=False),
    Column("application_id", Text),
    Column("sandbox", Boolean, nullable=False, server_default="0"),
    Column("apns_topic", Text),
    Column("registered_us", Integer, nullable=False),
    Column("learned_sandbox", Boolean),
    Column("learned_project", Text),
    Column("learned_field", Text),
    Column("last_success_ms", Integer),
    Index("device_token", "token", "system", "owner", unique=True),
)

removal = Table(
    "removal",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner", String(36), nullable=False, index=True),
    Column("system", String(8), nullable=False),
    Column("token", Text, nullable=False, index=True),
    Column("application", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("removed_ms", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("quarantined", Boolean, nullable=False, server_default="0"),
    # What is quarantined is not forgotten, and not to be passed over at every look for what is.
    Index("removal_old", "removed_ms", sqlite_where=text("quarantined = 0")),
)

session = Table(
    "session",
    metadata,
    Column("hash", LargeBinary(32), primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("owner", String(36), index=True),
    Column("created_ms", Integer, nullable=False),
    Column("expires_ms", Integer, index=True),
)

api_key = Table(
    "api_key",
    metadata,
    Column("hash", LargeBinary(32), primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("name", Text, nullable=False),
    Column("created_ms", Integer, nullable=False),
    Column("expires_ms", Integer),
)

application = Table(
    "application",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key_pem", Text),
    Column("key_id", Text),
    Column("certificate_pem", Text),
    Column("changed_ms", Integer, nullable=False),
)

fcm_project = Table(
    "fcm_project",
    metadata,
    Column("name", Text, primary_key=True),
    Column("service_account", Text, nullable=False),
    Column("is_default", Boolean, nullable=False, server_default="0"),
    Column("changed_ms", Integer, nullable=False),
)

# `revived_events` and `revived_bytes`: how many dead letters were ever replayed. A server that sees them grow learns
# how much its backlog has grown, whichever process replayed. `probe` is where a store that could not write tries again.
housekeeping = Table(
    "housekeeping",
    metadata,
    Column("name", Text, primary_key=True),
    Column("number", Integer),
    Column("filling", LargeBinary),
)
