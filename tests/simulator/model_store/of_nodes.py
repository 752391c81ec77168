"""What nodes say of themselves, which logs they hold, what they tell each other, and the tables' version."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final

from tests.simulator.model_store.transactions import Transaction
from tests.simulator.model_store.vocabulary import Rows, does, nothing
from tocsin.store.postgres import (
    horizons,
    marks,
    nodes,
    old_ids,
    ownership,
    positions,
    replication,
    schema,
    signals,
    wakes,
)
from tocsin.store.postgres.session import NODE_LOCKS

_REMEMBERED_S: Final = 60.0

# -- nodes -------------------------------------------------------------------------------------------------------------


def _node(t: Transaction, number: int, name: str, delivers: bool) -> dict[str, Any]:
    return {
        "number": number,
        "name": name,
        "delivers": delivers,
        "beat_at": t.database.clock(),
        "backlog_events": 0,
        "backlog_bytes": 0,
        "status": None,
    }


@does(nodes._REGISTER)
def register(t: Transaction, name: str, delivers: bool) -> Rows:
    number = t.database.next_of("node")
    t.insert(t.database.node, **_node(t, number, name, delivers))
    return [(number,)]


@does(nodes._REGISTER_AGAIN)
def register_again(t: Transaction, number: int, name: str, delivers: bool) -> Rows:
    t.put(t.database.node, number, _node(t, number, name, delivers), None)
    return ()


@does(nodes._LOCK)
def lock_node(t: Transaction, number: int) -> Rows:
    return [(t.try_advisory(NODE_LOCKS, number, session=True),)]


@does(nodes._LOCKED)
def is_locked(t: Transaction, number: int) -> Rows:
    return [(number in living(t),)]


@does(nodes._END_BEFORE)
def end_before(t: Transaction, application: str) -> Rows:
    for backend in list(t.database.backends.values()):
        if backend.application == application and backend is not t.backend:
            t.database.terminate(backend)
    return ()


@does(nodes._BEAT)
def beat(t: Transaction, number: int, events: int, size_bytes: int) -> Rows:
    row = t.get(t.database.node, number)
    if row is None:
        return ()
    now_s = t.database.clock()
    t.update(t.database.node, row, beat_at=now_s, backlog_events=events, backlog_bytes=size_bytes)
    return [(now_s,)]


@does(nodes._PUBLISH)
def publish(t: Transaction, number: int, status: bytes) -> Rows:
    if (row := t.get(t.database.node, number)) is not None:
        t.update(t.database.node, row, status=status)
    return ()


@does(nodes._STATUSES)
def statuses(t: Transaction) -> Rows:
    since_s = t.database.clock() - 60
    rows = [row for row in t.all(t.database.node) if row.status is not None and row.beat_at > since_s]
    return [(row.status,) for row in sorted(rows, key=lambda row: row.number)]


@does(nodes._FORGET)
def forget_nodes(t: Transaction) -> Rows:
    before_s = t.database.clock() - 24 * 3600
    for row in [row for row in t.all(t.database.node) if row.beat_at < before_s]:
        t.delete(t.database.node, row)
    return ()


@does(nodes._LEAVE)
def leave(t: Transaction, number: int) -> Rows:
    if (row := t.get(t.database.node, number)) is not None:
        t.delete(t.database.node, row)
    return ()


def living(t: Transaction) -> set[int]:
    """The numbers of nodes whose session holds its lock."""
    return {number for number, _ in t.database.locks.in_space(NODE_LOCKS)}


@does(nodes._LIVING)
def living_nodes(t: Transaction, but: int) -> Rows:
    alive = living(t)
    return [(row.number, row.beat_at) for row in t.all(t.database.node) if row.number != but and row.number in alive]


# -- which logs they hold ----------------------------------------------------------------------------------------------


@does(ownership._TAKE)
def take(t: Transaction, wanted: Sequence[int], most: int) -> Rows:
    taken: list[tuple[int]] = []
    for number in wanted:
        if len(taken) >= most:
            break
        if t.try_advisory(ownership.LOG_LOCKS, number, session=True):
            taken.append((number,))
    return taken


@does(ownership._ENTER, names="number epoch released")
def enter(t: Transaction, numbers: Sequence[int], node: int) -> Rows:
    entered = []
    for number in numbers:
        row = t.get(t.database.log, number)
        assert row is not None
        newer = t.update(t.database.log, row, epoch=row.epoch + 1, node=node, released=False)
        entered.append((number, newer.epoch, row.released))
    return entered


@does(ownership._RELEASE)
def release(t: Transaction, numbers: Sequence[int], node: int) -> Rows:
    for number in numbers:
        row = t.get(t.database.log, number)
        if row is not None and row.node == node:
            t.update(t.database.log, row, released=True)
    return ()


@does(ownership._UNLOCK)
def unlock(t: Transaction, numbers: Sequence[int]) -> Rows:
    return [(t.database.locks.unlock(t.backend, (ownership.LOG_LOCKS, number)),) for number in numbers]


@does(ownership._STILL, names="number epoch")
def still(t: Transaction, numbers: Sequence[int], node: int) -> Rows:
    rows = [t.get(t.database.log, number) for number in numbers]
    return [(row.number, row.epoch) for row in rows if row is not None and row.node == node]


@does(ownership._DELIVERING)
def delivering(t: Transaction, own: int) -> Rows:
    since_s, alive = t.database.clock() - ownership.ALIVE_S, living(t)
    rows = [row for row in t.all(t.database.node) if row.delivers]
    return [(sum(row.number == own or (row.beat_at > since_s and row.number in alive) for row in rows),)]


@does(ownership._END_STALLED)
def end_stalled(t: Transaction, numbers: Sequence[int], beats: Sequence[float]) -> Rows:
    last, ended = dict(zip(numbers, beats, strict=True)), []
    for number, backend in t.database.locks.in_space(NODE_LOCKS):
        row = t.get(t.database.node, number)
        if row is not None and number in last and row.beat_at == last[number]:
            t.database.terminate(backend)
            ended.append((row.name, True))
    return ended


# -- what they tell each other -----------------------------------------------------------------------------------------


def signal(t: Transaction, origin: int, bodies: Sequence[str]) -> None:
    for body in bodies:
        number, at_s = t.database.next_of("signal"), t.database.clock()
        t.insert(t.database.signal, id=number, origin=origin, body=body, at=at_s)


@does(signals._INSERT)
def insert_signals(t: Transaction, origin: int, bodies: Sequence[str]) -> Rows:
    signal(t, origin, bodies)
    return ()


@does(marks._INSERT)
def insert_marks(
    t: Transaction, day: int, streams: Sequence[int], owners: Sequence[str], origin: int, bodies: Sequence[str]
) -> Rows:
    from tests.simulator.model_store.of_events import insert_event

    for stream, owner in zip(streams, owners, strict=True):
        insert_event(t, day, stream, None, owner, "", 0, 0, 0, None, b"")
    signal(t, origin, bodies)
    return ()


@does(signals._READ, names="id body")
def read_signals(t: Transaction, above: Sequence[int], below: Sequence[int], origin: int, number: int) -> Rows:
    node = t.get(t.database.node, number)
    found = [] if node is None else [(0, repr(node.beat_at))]
    after, behind = above[0], below[-1]
    for row in reversed(list(t.database.signal.newest_first(after))):
        at = bisect_left(above, row.id) - 1
        if row.id < behind and row.id < below[at] and t.sees(row):
            found.append((row.id, None if row.origin == origin else row.body))
    return found


@does(signals._OLD)
def old_signals(t: Transaction) -> Rows:
    before_s = t.database.clock() - _REMEMBERED_S
    return [(max((row.id for row in t.all(t.database.signal) if row.at <= before_s), default=0),)]


@does(signals._SINCE)
def signals_since(t: Transaction, floor: int) -> Rows:
    return sorted((row.id,) for row in t.all(t.database.signal) if row.id > floor)


@does(signals._REGISTERED)
def registered(t: Transaction, *columns: Sequence[str]) -> Rows:
    return [key for key in zip(*columns, strict=True) if t.get(t.database.device, key) is not None]


@does(wakes._NOTIFY)
def notify(t: Transaction, channel: str, payload: str) -> Rows:
    t.notifications.append(payload)
    return ()


does("SELECT 1")(lambda t: [(1,)])

# -- the tables' version, and what `meta` has --------------------------------------------------------------------------


@does("SELECT name, value FROM meta WHERE name IN ('schema', 'oldest')")
def version(t: Transaction) -> Rows:
    return _meta(t, "schema", "oldest")


@does(horizons._READ)
def read_horizons(t: Transaction) -> Rows:
    return _meta(t, "done_before_ms", "dead_before_ms")


@does(horizons._WRITE)
def write_horizons(t: Transaction, names: Sequence[str], values: Sequence[int]) -> Rows:
    for name, value in zip(names, values, strict=True):
        row = t.get(t.database.meta, name)
        newest = value if row is None else max(row.value, value)
        t.put(t.database.meta, name, {"name": name, "value": newest}, {"value": newest})
    return ()


@does(old_ids._READ)
def read_walk(t: Transaction) -> Rows:
    return _meta(t, old_ids._BELOW, old_ids._BLOCK)


@does(old_ids._WRITE)
def write_walk(t: Transaction, names: Sequence[str], values: Sequence[int]) -> Rows:
    for name, value in zip(names, values, strict=True):
        t.put(t.database.meta, name, {"name": name, "value": value}, {"value": value})
    return ()


@does("SELECT EXISTS (SELECT 1 FROM meta WHERE name = $1)")
def is_moving(t: Transaction, name: str) -> Rows:
    return [(t.get(t.database.meta, name) is not None,)]


@does(positions._GET)
def position(t: Transaction, name: str) -> Rows:
    row = t.get(t.database.meta, name)
    return [] if row is None else [(row.value,)]


@does(positions._SET)
def set_position(t: Transaction, name: str, value: int) -> Rows:
    t.put(t.database.meta, name, {"name": name, "value": value}, {"value": value})
    return ()


@does(schema._KNOW)
def know(t: Transaction, number: int) -> Rows:
    t.advisory(schema._KNOWN_LOCKS, number, shared=True, session=True)
    return ()


@does("SELECT extract(epoch FROM clock_timestamp())::float8")
def clock(t: Transaction) -> Rows:
    return [(t.database.clock(),)]


@does(replication._STANDBYS)
def standbys(t: Transaction) -> Rows:
    return []


@does("SELECT pg_database_size(current_database())")
def size(t: Transaction) -> Rows:
    return [(8 * 1024 * 1024 + 1000 * sum(1 for _ in t.database.event.all()),)]


def _meta(t: Transaction, *names: str) -> Rows:
    rows = [t.get(t.database.meta, name) for name in names]
    return [(row.name, row.value) for row in rows if row is not None]


does("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")(nothing)
does("SET lock_timeout = '2s'", "SET LOCAL lock_timeout = '2s'")(nothing)
