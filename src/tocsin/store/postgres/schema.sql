-- The tables of a new store. `xid` is the number of the transaction that inserted a row: with it a log is read so that
-- no commit is passed over which ends after a later one (020-logs-on-postgresql.md).

CREATE TABLE meta (
    name text PRIMARY KEY,
    value bigint NOT NULL
);

-- One row for each process that serves. `beat_at` is the database's time.
CREATE TABLE node (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    delivers boolean NOT NULL,
    beat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    backlog_events bigint NOT NULL DEFAULT 0,
    backlog_bytes bigint NOT NULL DEFAULT 0,
    status bytea
) WITH (fillfactor = 50);

-- Who delivers what a log holds. The lock that goes with it is an advisory one.
CREATE TABLE log (
    number smallint PRIMARY KEY,
    epoch bigint NOT NULL DEFAULT 0,
    node integer,
    released boolean NOT NULL DEFAULT true
) WITH (fillfactor = 50);

-- Everything of a stream up to here is settled, or parked in rows of its own: a takeover reads from here.
CREATE TABLE low_water (
    stream smallint PRIMARY KEY,
    day integer NOT NULL,
    xid bigint NOT NULL,
    seq bigint NOT NULL
) WITH (fillfactor = 50);

-- Events in order, and marks between them (no id): the devices of this owner have changed. Never updated.
CREATE SEQUENCE event_seq;
CREATE TABLE event (
    day integer NOT NULL,
    stream smallint NOT NULL,
    xid bigint NOT NULL,
    seq bigint NOT NULL DEFAULT nextval('event_seq'),
    id uuid,
    owner uuid NOT NULL,
    message text NOT NULL,
    accepted_ms bigint NOT NULL,
    expires_ms bigint NOT NULL,
    size integer NOT NULL,
    content_key bigint,
    body bytea NOT NULL,
    PRIMARY KEY (stream, xid, seq, day)
) PARTITION BY LIST (day);

-- Every id that was ever accepted, as long as its event is on record. A table of its own, because a unique key of a
-- partitioned table must contain the partition key. The transaction's number says where the event is.
CREATE TABLE event_id (
    id uuid PRIMARY KEY,
    digest bytea NOT NULL,
    day integer NOT NULL,
    stream smallint NOT NULL,
    xid bigint NOT NULL
);
CREATE INDEX event_id_day ON event_id USING brin (day);

-- One row for each settlement: the first of an event (unit 0), and one for each parked row that it had. Never updated.
CREATE SEQUENCE settlement_number;
CREATE TABLE settlement (
    day integer NOT NULL,
    stream smallint NOT NULL,
    xid bigint NOT NULL,
    seq bigint NOT NULL,
    unit bigint NOT NULL,
    event_day integer NOT NULL,
    number bigint NOT NULL DEFAULT nextval('settlement_number'),
    at_ms bigint NOT NULL,
    attempts text NOT NULL,
    PRIMARY KEY (stream, xid, seq, unit, day)
) PARTITION BY LIST (day);

CREATE TABLE parked (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream smallint NOT NULL,
    xid bigint NOT NULL,
    seq bigint NOT NULL,
    day integer NOT NULL,
    lane text NOT NULL,
    due_ms bigint NOT NULL,
    expires_ms bigint NOT NULL,
    tries integer NOT NULL,
    round integer NOT NULL,
    size integer NOT NULL,
    targets text NOT NULL
);
CREATE INDEX parked_due ON parked (stream, lane, due_ms, id);
CREATE INDEX parked_event ON parked (stream, xid, seq);
CREATE INDEX parked_expires ON parked (stream, expires_ms);

-- What was parked for a lane before this number is due: one row instead of an update of a million.
CREATE TABLE woken (
    lane text PRIMARY KEY,
    upto bigint NOT NULL
);

-- Events that outlive their partition: dead letters, and what was not settled long enough ago when it went.
CREATE TABLE kept (
    stream smallint NOT NULL,
    xid bigint NOT NULL,
    seq bigint NOT NULL,
    day integer NOT NULL,
    id uuid NOT NULL UNIQUE,
    owner uuid NOT NULL,
    message text NOT NULL,
    accepted_ms bigint NOT NULL,
    expires_ms bigint NOT NULL,
    size integer NOT NULL,
    content_key bigint,
    body bytea NOT NULL,
    round integer NOT NULL DEFAULT 0,
    dead boolean NOT NULL DEFAULT false,
    settled_ms bigint,
    PRIMARY KEY (stream, xid, seq)
);
CREATE INDEX kept_dead ON kept (seq) WHERE dead AND settled_ms IS NOT NULL;
CREATE INDEX kept_settled ON kept (settled_ms) WHERE settled_ms IS NOT NULL;

CREATE TABLE device (
    id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    owner uuid NOT NULL,
    provider text NOT NULL,
    token text NOT NULL,
    address text NOT NULL,
    registered_us bigint NOT NULL,
    generation bigint NOT NULL,
    last_success_ms bigint,
    complaint text,
    PRIMARY KEY (owner, provider, token)
);
CREATE INDEX device_token ON device (token, provider);
CREATE INDEX device_complaint ON device (provider) WHERE complaint IS NOT NULL;

-- On which topics a device was reached, and when that was last noted: these are right.
CREATE TABLE topic (
    provider text NOT NULL,
    account text NOT NULL,
    name text NOT NULL,
    reached_ms bigint NOT NULL,
    PRIMARY KEY (provider, account, name)
);

CREATE TABLE removal (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner uuid NOT NULL,
    provider text NOT NULL,
    token text NOT NULL,
    account text NOT NULL,
    device text NOT NULL,
    removed_ms bigint NOT NULL,
    reason text NOT NULL,
    quarantined boolean NOT NULL,
    for_topic boolean NOT NULL DEFAULT false
);
CREATE INDEX removal_token ON removal (token, provider, id);
CREATE INDEX removal_owner ON removal (owner);
CREATE INDEX removal_old ON removal (removed_ms) WHERE NOT quarantined;
CREATE INDEX removal_quarantined ON removal (provider, account, removed_ms) WHERE quarantined;
CREATE INDEX removal_by_fuse ON removal (provider, account) WHERE quarantined AND NOT for_topic;

CREATE TABLE session (
    hash bytea PRIMARY KEY,
    id text NOT NULL UNIQUE,
    owner uuid,
    created_ms bigint NOT NULL,
    expires_ms bigint
);
CREATE INDEX session_owner ON session (owner);
CREATE INDEX session_expires ON session (expires_ms);

CREATE TABLE api_key (
    hash bytea PRIMARY KEY,
    id text NOT NULL UNIQUE,
    role text NOT NULL,
    name text NOT NULL,
    created_ms bigint NOT NULL,
    expires_ms bigint,
    limits text
);

CREATE TABLE credential (
    provider text NOT NULL,
    account text NOT NULL,
    content bytea NOT NULL,
    is_default boolean NOT NULL,
    changed_ms bigint NOT NULL,
    key_id text NOT NULL,
    PRIMARY KEY (provider, account)
);

-- The keys by which contents are encrypted, one an hour (content_keys.py), and those that stay (digests.py).
CREATE TABLE content_key (
    id bigint PRIMARY KEY,
    from_ms bigint NOT NULL,
    until_ms bigint NOT NULL,
    key_id text NOT NULL,
    record bytea NOT NULL
);
CREATE TABLE kept_key (
    name text PRIMARY KEY,
    key_id text NOT NULL,
    record bytea NOT NULL
);

-- Who has changed what (audit_chain.py); and what users are called there, each by a key of its own.
CREATE TABLE audit (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chain text NOT NULL,
    number bigint NOT NULL,
    at_ms bigint NOT NULL,
    text bytea NOT NULL,
    hash bytea NOT NULL,
    UNIQUE (chain, number)
);
CREATE TABLE audit_chain (
    name text PRIMARY KEY,
    anchor_number bigint NOT NULL,
    anchor_hash bytea NOT NULL,
    head_number bigint NOT NULL,
    head_hash bytea NOT NULL
);
CREATE TABLE pseudonym (
    owner uuid PRIMARY KEY,
    key_id text NOT NULL,
    record bytea NOT NULL
);

-- What was changed, for every process to read. `origin` is the process that has changed it.
CREATE TABLE signal (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    origin bigint NOT NULL,
    body text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE job (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    kind text NOT NULL,
    arguments bytea NOT NULL,
    state text NOT NULL,
    node integer,
    created_ms bigint NOT NULL,
    changed_ms bigint NOT NULL,
    position text NOT NULL DEFAULT '',
    done bigint NOT NULL DEFAULT 0,
    skipped bigint NOT NULL DEFAULT 0,
    total bigint,
    error text NOT NULL DEFAULT ''
);
