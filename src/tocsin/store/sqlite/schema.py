"""The tables. `migrations/` brings a file to them."""

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
    # Bytes (`store/digests.py`); text in rows of versions before 0009, until the store is next opened.
    Column("digest", String(32)),
    # Receipts, as JSON arrays with a comma between them; appended to, never rewritten.
    Column("attempts", Text),
    # The content, encrypted (in clear where `content_key_id` is null, until the store is next opened); gone once it is
    # delivered.
    Column("body", Text),
    # How often it was replayed.
    Column("round", SmallInteger, nullable=False, server_default="0"),
    # Since when it is settled; absent where it is not, and where a version before 0006 has settled it.
    Column("settled_ms", Integer),
    # The key of an hour by which the content is encrypted; gone with the content.
    Column("content_key_id", Integer),
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
    # Not any number: it begins with a key made from the owner (`registry.py`).
    Column("id", Integer, primary_key=True),
    Column("owner", String(36), nullable=False),
    Column("provider", Text, nullable=False),
    Column("token", Text, nullable=False),
    # The provider's own (`domain.devices.Address`).
    Column("address", Text, nullable=False),
    Column("registered_us", Integer, nullable=False),
    # A number that no other registration of the token has had.
    Column("generation", Integer, nullable=False),
    Column("last_success_ms", Integer),
    # `domain.devices.Complaint`, a JSON array; few have one.
    Column("complaint", Text),
    Index("device_token", "token", "provider", "owner", unique=True),
    Index("device_complaint", "provider", sqlite_where=text("complaint IS NOT NULL")),
)

# On which topics a device was reached, and when that was last noted: these are right.
topic = Table(
    "topic",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("account", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("reached_ms", Integer, nullable=False),
)

removal = Table(
    "removal",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner", String(36), nullable=False, index=True),
    Column("provider", Text, nullable=False),
    Column("token", Text, nullable=False, index=True),
    Column("account", Text, nullable=False),
    # The registration as it was: `domain.devices.Device`, a JSON array.
    Column("device", Text, nullable=False),
    Column("removed_ms", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("quarantined", Boolean, nullable=False, server_default="0"),
    # In quarantine for what was said of this device alone: no fuse has put it there.
    Column("for_topic", Boolean, nullable=False, server_default="0"),
    # What is quarantined is not forgotten, and not to be passed over at every look for what is.
    Index("removal_old", "removed_ms", sqlite_where=text("quarantined = 0")),
    Index("removal_quarantined", "provider", "account", "removed_ms", sqlite_where=text("quarantined = 1")),
    Index("removal_by_fuse", "provider", "account", sqlite_where=text("quarantined = 1 AND for_topic = 0")),
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
    # `store.records.KeyLimits`, JSON; null where it has none.
    Column("limits", Text),
)

credential = Table(
    "credential",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("account", Text, primary_key=True),
    # The provider's own, encrypted (`store/sealing.py`).
    Column("content", LargeBinary, nullable=False),
    Column("is_default", Boolean, nullable=False, server_default="0"),
    Column("changed_ms", Integer, nullable=False),
    # The master key that its data key is wrapped by; null where it is in clear, until the store is next opened.
    Column("key_id", Text),
)

# What the provider said when it was asked last about a credential: of the one that was put at `changed_ms`.
credential_check = Table(
    "credential_check",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("account", Text, primary_key=True),
    Column("changed_ms", Integer, nullable=False),
    Column("at_ms", Integer, nullable=False),
    Column("sandbox", Boolean, nullable=False),
    Column("ok", Boolean, nullable=False),
    Column("sentence", Text, nullable=False),
)

# The keys by which the contents of events are encrypted, one an hour (`store/content_keys.py`). They are wrapped by a
# master key, as all records of the tables below that have a `key_id`.
content_key = Table(
    "content_key",
    metadata,
    # A random number: it is never given to another key.
    Column("id", Integer, primary_key=True),
    # Contents are encrypted by it from when until when.
    Column("from_ms", Integer, nullable=False),
    Column("until_ms", Integer, nullable=False),
    # Nothing more is encrypted by it: it is about to be dropped.
    Column("closed", Boolean, nullable=False, server_default="0"),
    Column("key_id", Text, nullable=False),
    Column("record", LargeBinary, nullable=False),
)

# Keys that are kept for as long as the store is, by their names.
kept_key = Table(
    "kept_key",
    metadata,
    Column("name", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("record", LargeBinary, nullable=False),
)

# By which key a user is called what in the audit log (`store/pseudonyms.py`).
pseudonym = Table(
    "pseudonym",
    metadata,
    Column("owner", String(36), primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("record", LargeBinary, nullable=False),
)

# Who has changed what (`store/audit_chain.py`): the texts are kept as they are, because hashes cover them.
audit = Table(
    "audit",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("chain", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("at_ms", Integer, nullable=False),
    Column("text", LargeBinary, nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
    Index("audit_number", "chain", "number", unique=True),
)

audit_chain = Table(
    "audit_chain",
    metadata,
    Column("name", Text, primary_key=True),
    # The last entry that was pruned, and the last one of all.
    Column("anchor_number", Integer, nullable=False),
    Column("anchor_hash", LargeBinary(32), nullable=False),
    Column("head_number", Integer, nullable=False),
    Column("head_hash", LargeBinary(32), nullable=False),
)

# What commands have changed beside the server, for it to read (`signals.py`).
signal = Table(
    "signal",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("body", Text, nullable=False),
    Column("at_ms", Integer, nullable=False),
)

job = Table(
    "job",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("arguments", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_ms", Integer, nullable=False),
    Column("changed_ms", Integer, nullable=False),
    Column("position", Text, nullable=False),
    Column("done", Integer, nullable=False),
    Column("skipped", Integer, nullable=False),
    Column("total", Integer),
    Column("error", Text, nullable=False),
)

# The numbers of events (`seq`, with a comma between them) of which something was settled, a row for each transaction:
# what the index of the search has not looked at yet (`search_index.py`).
search_feed = Table(
    "search_feed",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("seqs", Text, nullable=False),
    Column("count", Integer, nullable=False),
    Column("at_ms", Integer, nullable=False),
)

# `revived_events` and `revived_bytes`: how many dead letters were ever replayed. A server that sees them grow learns
# how much its backlog has grown, whichever process replayed; as with `erased_events` and `erased_bytes`, events that
# waited when their user was erased. `probe` is where a store that could not write tries again.
# `in_clear`: an older version has left contents in clear, up to which number they are encrypted by now.
# `signals_seen`: which signal the server has read last.
housekeeping = Table(
    "housekeeping",
    metadata,
    Column("name", Text, primary_key=True),
    Column("number", Integer),
    Column("filling", LargeBinary),
)
