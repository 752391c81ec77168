-- The index of the search: a row for each event that was settled, filled beside the path of delivery, in the order of
-- each stream (`search_feed.py`). Nothing but that writes it, save that a replay has its events looked at again.

CREATE TABLE seen (
    seq bigint NOT NULL,
    xid bigint NOT NULL,
    accepted_ms bigint NOT NULL,
    -- Where the row lies: the day of its event, or a later one where the event has outlived its partition.
    day integer NOT NULL,
    event_day integer NOT NULL,
    -- A key of the owner, and the number of a shape: negative where everything was delivered.
    owner integer NOT NULL,
    shape integer NOT NULL,
    settlements integer NOT NULL,
    stream smallint NOT NULL,
    -- Whether something is to come of it: such rows are compared with their settlements again and again.
    waits boolean NOT NULL,
    PRIMARY KEY (seq, day)
) PARTITION BY LIST (day);
CREATE INDEX seen_owner ON seen (owner, seq);
CREATE INDEX seen_shape ON seen (shape, seq);
CREATE INDEX seen_waits ON seen (seq) WHERE waits;

CREATE TABLE shape (
    id integer PRIMARY KEY,
    message text NOT NULL,
    combinations text NOT NULL
);

-- Everything of a stream up to here is in the index; what follows is of the day before `day` or later.
CREATE TABLE seen_to (
    stream smallint PRIMARY KEY,
    day integer NOT NULL,
    xid bigint NOT NULL,
    seq bigint NOT NULL
) WITH (fillfactor = 50);
