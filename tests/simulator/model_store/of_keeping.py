"""Keys of contents, jobs, partitions, what is forgotten in time, and the erasure of a user.

The index of the search is not a part of the model: all of it is SQL, and one process fills it under a lock. Nothing of
how nodes share their work is in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from tests.simulator.model_store.of_events import event_at, is_settled, place, settlements
from tests.simulator.model_store.of_nodes import living
from tests.simulator.model_store.rows import Row, Table, columns_of
from tests.simulator.model_store.transactions import Transaction
from tests.simulator.model_store.vocabulary import Rows, does, does_all, nothing
from tocsin.store.postgres import (
    contents,
    erasing,
    housekeeping,
    jobs,
    old_days,
    old_ids,
    partitions,
    reading,
    search_feed,
)
from tocsin.store.postgres.schema import LOCK_SPACE
from tocsin.store.records import ENDED

_ROWS: Final = housekeeping._STEP_ROWS
_PLACE: Final = ("stream", "xid", "seq")
_DAY: Final = "event_4711"

# -- keys of contents --------------------------------------------------------------------------------------------------


@does(contents._CURRENT)
def current_key(t: Transaction, now_ms: int) -> Rows:
    rows = [row for row in t.all(t.database.content_key) if row.from_ms <= now_ms < row.until_ms]
    rows.sort(key=lambda row: (-row.until_ms, row.id))
    return [(row.id, row.until_ms, row.key_id, row.record) for row in rows[:1]]


@does(contents._FIND)
def find_keys(t: Transaction, ids: Sequence[int]) -> Rows:
    rows = [t.get(t.database.content_key, id) for id in ids]
    return [(row.id, row.key_id, row.record) for row in rows if row is not None]


@does(contents._INSERT)
def insert_key(t: Transaction, *values: Any) -> Rows:
    t.insert(
        t.database.content_key, **dict(zip(("id", "from_ms", "until_ms", "key_id", "record"), values, strict=True))
    )
    return ()


@does(contents._FIND_KEPT)
def find_kept_key(t: Transaction, name: str) -> Rows:
    row = t.get(t.database.kept_key, name)
    return [] if row is None else [(row.key_id, row.record)]


@does(contents._INSERT_KEPT)
def insert_kept_key(t: Transaction, name: str, key_id: str, record: bytes) -> Rows:
    t.put(t.database.kept_key, name, {"name": name, "key_id": key_id, "record": record}, None)
    return ()


# -- jobs --------------------------------------------------------------------------------------------------------------

_JOB: Final = tuple(jobs._COLUMNS.split(", "))


def _job(row: Row) -> tuple[Any, ...]:
    return tuple([getattr(row, name) for name in _JOB])


def _is_abandoned(row: Row, alive: set[int]) -> bool:
    return row.node is None or row.node not in alive


@does(jobs._CREATE)
def create_job(t: Transaction, id: str, kind: str, arguments: bytes, at_ms: int, total: int | None) -> Rows:
    new = {"id": id, "kind": kind, "arguments": arguments, "state": "waiting", "node": None, "total": total}
    times = {"created_ms": at_ms, "changed_ms": at_ms, "position": "", "done": 0, "skipped": 0, "error": ""}
    return [_job(t.insert(t.database.job, seq=t.database.next_of("job"), **new, **times))]


@does(jobs._STOP_ABANDONED)
def stop_abandoned(t: Transaction, at_ms: int) -> Rows:
    alive = living(t)
    for row in [row for row in t.all(t.database.job) if row.state == "stopping" and _is_abandoned(row, alive)]:
        t.update(t.database.job, row, state="stopped", changed_ms=at_ms)
    return ()


@does(jobs._TAKE)
def take_job(t: Transaction, at_ms: int, node: int, kinds: Sequence[str]) -> Rows:
    alive = living(t)
    for row in sorted(t.all(t.database.job), key=lambda row: row.seq):
        is_free = row.state == "waiting" or (row.state == "running" and _is_abandoned(row, alive))
        if row.kind in kinds and is_free and not row.taken_by:  # SKIP LOCKED
            return [_job(t.update(t.database.job, row, state="running", changed_ms=at_ms, node=node))]
    return ()


@does(jobs._PROGRESS)
def progress(t: Transaction, position: str, done: int, skipped: int, at_ms: int, id: str, node: int) -> Rows:
    row = t.get(t.database.job, id)
    if row is None or row.node not in (None, node):
        return ()
    more = {"done": row.done + done, "skipped": row.skipped + skipped}
    return [(t.update(t.database.job, row, position=position, changed_ms=at_ms, **more).state,)]


@does(jobs._SET_STATE)
def set_state(t: Transaction, state: str, error: str, at_ms: int, id: str) -> Rows:
    row = t.get(t.database.job, id)
    assert row is not None
    return [_job(t.update(t.database.job, row, state=str(state), error=error, changed_ms=at_ms))]


@does(jobs._HELD)
def held_job(t: Transaction, id: str) -> Rows:
    row = t.get(t.database.job, id)
    if row is None:
        return ()
    t.lock(row)
    return [(*_job(row), row.node)]


@does(jobs._GET)
def get_job(t: Transaction, id: str) -> Rows:
    row = t.get(t.database.job, id)
    return [] if row is None else [_job(row)]


@does(f"{jobs._GET} FOR UPDATE")
def get_job_locked(t: Transaction, id: str) -> Rows:
    row = t.get(t.database.job, id)
    if row is None:
        return ()
    t.lock(row)
    return [_job(row)]


@does(jobs._PAGE)
def page_of_jobs(t: Transaction, newest: int, limit: int) -> Rows:
    rows = sorted([row for row in t.all(t.database.job) if row.seq <= newest], key=lambda row: -row.seq)
    return [(row.seq, *_job(row)) for row in rows[:limit]]


# -- partitions --------------------------------------------------------------------------------------------------------


@does(partitions._EXISTING)
def existing(t: Transaction, table: str) -> Rows:
    return [(partitions.name_of(table, day), False) for day in sorted(t.database.partitions[table])]


@does("SELECT pg_advisory_xact_lock($1, $2)")
def lock(t: Transaction, space: int, key: int) -> Rows:
    t.advisory(space, key)
    return ()


does_all(r"DROP TABLE IF EXISTS \w+_\d+|CREATE TABLE \w+_\d+ \(LIKE \w+ INCLUDING ALL\)")(nothing)


@does_all(r"ALTER TABLE (\w+) ATTACH PARTITION \w+ FOR VALUES IN \((\d+)\)")
def attach(t: Transaction, table: str, day: str) -> Rows:
    t.database.partitions[table].add(int(day))
    return ()


@does_all(r"ALTER TABLE (\w+) DETACH PARTITION \w+_(\d+) (?:CONCURRENTLY|FINALIZE)")
def detach(t: Transaction, name: str, day: str) -> Rows:
    t.database.partitions[name].discard(int(day))
    if name != "seen":
        table = getattr(t.database, name)
        for row in t.where(table, ("day",), int(day)):
            t.delete(table, row)
    return ()


# -- what is forgotten in time -----------------------------------------------------------------------------------------


@does(housekeeping._TRY)
def try_pruning(t: Transaction) -> Rows:
    return [(t.try_advisory(LOCK_SPACE, old_days.PRUNING),)]


@does(old_days._TRY)
def try_pruning_for_long(t: Transaction) -> Rows:
    return [(t.try_advisory(LOCK_SPACE, old_days.PRUNING, session=True),)]


def _forget(t: Transaction, table: Table, rows: Iterable[Row]) -> Rows:
    some = list(rows)[:_ROWS]
    for row in some:
        t.delete(table, row)
    return [(1,)] * len(some)


@does(housekeeping._OLD_LETTERS)
def old_letters(t: Transaction, before_ms: int) -> Rows:
    rows = [row for row in t.all(t.database.kept) if row.dead and row.settled_ms is not None]
    some = [row for row in rows if row.settled_ms < before_ms][:_ROWS]
    for row in some:
        t.update(t.database.kept, row, dead=False, settled_ms=0, body=b"")
    return [(1,)] * len(some)


@does(housekeeping._OLD_KEPT)
def old_kept(t: Transaction, before_ms: int, before_day: int) -> Rows:
    rows = [row for row in t.all(t.database.kept) if not row.dead and row.settled_ms is not None]
    some = [row for row in rows if row.settled_ms < before_ms and row.day < before_day][:_ROWS]
    for row in some:
        t.delete(t.database.kept, row)
    return [(row.id,) for row in some]


@does(housekeeping._OLD_REMOVALS)
def old_removals(t: Transaction, before_ms: int) -> Rows:
    rows = [row for row in t.all(t.database.removal) if not row.quarantined and row.removed_ms < before_ms]
    return _forget(t, t.database.removal, rows)


@does(housekeeping._OLD_SESSIONS)
def old_sessions(t: Transaction, before_ms: int) -> Rows:
    rows = [row for row in t.all(t.database.session) if row.expires_ms is not None and row.expires_ms < before_ms]
    return _forget(t, t.database.session, rows)


@does(housekeeping._OLD_JOBS)
def old_jobs(t: Transaction, before_ms: int) -> Rows:
    return _forget(
        t, t.database.job, [row for row in t.all(t.database.job) if row.changed_ms < before_ms and row.state in ENDED]
    )


@does(housekeeping._OLD_SIGNALS)
def old_signals(t: Transaction) -> Rows:
    before_s = t.database.clock() - 24 * 3600
    oldest = sorted(t.all(t.database.signal), key=lambda row: row.id)[:_ROWS]
    return _forget(t, t.database.signal, [row for row in oldest if row.at < before_s])


@does(old_ids._BLOCKS)
def blocks(t: Transaction) -> Rows:
    return [(1,)]


@does(old_ids._FORGET)
def forget_ids(t: Transaction, first: tuple[int, int], last: tuple[int, int], before_day: int) -> Rows:
    for row in [row for row in t.all(t.database.event_id) if row.day < before_day]:
        if first == (0, 0) and not t.where(t.database.kept, ("id",), row.id):
            t.delete(t.database.event_id, row)
    return ()


@does(old_ids._FORGET_THESE)
def forget_these_ids(t: Transaction, ids: Sequence[str], before_day: int) -> Rows:
    for id in ids:
        row = t.get(t.database.event_id, id)
        if row is not None and row.day < before_day:
            t.delete(t.database.event_id, row)
    return ()


@does(housekeeping._OLD_KEYS)
def old_keys(t: Transaction, before_ms: int) -> Rows:
    used = {row.content_key for row in t.all(t.database.kept)}
    for row in [row for row in t.all(t.database.content_key) if row.until_ms < before_ms and row.id not in used]:
        t.delete(t.database.content_key, row)
    return ()


def _of_day(statement: str) -> str:
    """The text of a statement about one partition, as a pattern whose group is the day."""

    text = re.escape(statement.format(partition=_DAY))
    return text.replace(_DAY, r"(?:event|settlement)_(\d+)", 1).replace(_DAY, r"(?:event|settlement)_\d+")


@does_all(_of_day(old_days._UNTRIED))
def untried(t: Transaction, day: str) -> Rows:
    for row in t.where(t.database.event, ("day",), int(day)):
        low = t.get(t.database.low_water, row.stream)
        assert low is not None
        if row.id is not None and (row.xid, row.seq) > (low.xid, low.seq) and not is_settled(t, place(row)):
            return [(True,)]
    return [(False,)]


def _keep(t: Transaction, row: Row, **changes: Any) -> None:
    new = columns_of(row) | {"round": 0, "dead": False, "settled_ms": None} | changes
    t.put(t.database.kept, place(row), new, None)


@does_all(_of_day(old_days._ABOVE))
def above(t: Transaction, day: str) -> Rows:
    for row in t.where(t.database.event, ("day",), int(day)):
        low = t.get(t.database.low_water, row.stream)
        assert low is not None
        if row.id is not None and (row.xid, row.seq) > (low.xid, low.seq):
            return [(True,)]
    return [(False,)]


@does(old_days._PARKED, names="id stream xid seq")
def parked_after(t: Transaction, after: int) -> Rows:
    rows = sorted([row for row in t.all(t.database.parked) if row.id > after], key=lambda row: row.id)
    return [(row.id, *place(row)) for row in rows[: old_days._STEP_ROWS]]


@does(old_days._KEPT, names="stream xid seq")
def kept_after(t: Transaction, *after: int) -> Rows:
    return sorted([place(row) for row in t.all(t.database.kept) if place(row) > after])[: old_days._STEP_ROWS]


@does_all(_of_day(old_days._KEEP_WAITING))
def keep_waiting(t: Transaction, of: str, day: int, first: int, last: int) -> Rows:
    waiting = {place(row) for row in t.all(t.database.parked) if row.day == day and first <= row.id <= last}
    for row in t.where(t.database.event, ("day",), int(of)):
        if place(row) in waiting:
            _keep(t, row)
    return ()


@does_all(_of_day(old_days._KEEP_RECENT))
def keep_recent(t: Transaction, of: str, day: int, since_day: int, stream: int) -> Rows:
    late: dict[Any, int] = {}
    for row in t.all(t.database.settlement):
        if row.stream == stream and row.event_day == day and row.day >= since_day:
            late[place(row)] = max(row.at_ms, late.get(place(row), 0))
    for row in t.where(t.database.event, ("day",), int(of)):
        if (at_ms := late.get(place(row))) is not None:
            _keep(t, row, size=0, content_key=None, body=b"", settled_ms=at_ms)
    return ()


@does(old_days._END_SETTLED)
def end_settled(t: Transaction, *columns: Sequence[int]) -> Rows:
    for at in zip(*columns, strict=True):
        row = t.get(t.database.kept, at)
        settled = [one.at_ms for one in settlements(t, at)]
        if row is None or row.settled_ms is not None or row.dead or not settled:
            continue
        if not t.where(t.database.parked, _PLACE, at):
            t.update(t.database.kept, row, settled_ms=max(settled), body=b"")
    return ()


@does_all(_of_day(old_days._KEEP_ATTEMPTS))
def keep_attempts(t: Transaction, of: str, today: int, *columns: Sequence[int]) -> Rows:
    named = set(zip(*columns, strict=True))
    for row in t.where(t.database.settlement, ("day",), int(of)):
        if place(row) in named:
            new = columns_of(row) | {"day": today}
            t.put(t.database.settlement, (*place(row), row.unit, today), new, None)
    return ()


# -- the search's index: its lock alone --------------------------------------------------------------------------------


@does(search_feed._HOLD_OFF)
def hold_off(t: Transaction) -> Rows:
    t.advisory(LOCK_SPACE, search_feed._FILLING, shared=True)
    return ()


@does(search_feed._HOLD)
def hold(t: Transaction) -> Rows:
    t.advisory(LOCK_SPACE, search_feed._FILLING)
    return ()


does(search_feed._LOOK_AGAIN, search_feed._FORGET, reading._PLANS)(nothing)
does_all(r"WITH carried AS \(DELETE FROM seen_\d+ .*")(nothing)

# -- the erasure of a user ---------------------------------------------------------------------------------------------


def _erase(t: Transaction, table: Table, owner: str) -> list[Row]:
    rows = [row for row in t.all(table) if row.owner == owner]
    for row in rows:
        t.delete(table, row)
    return rows


@does(erasing._DEVICES, names="provider token")
def erase_devices(t: Transaction, owner: str) -> Rows:
    return [(row.provider, row.token) for row in _erase(t, t.database.device, owner)]


@does(erasing._REMOVALS, names="provider token account quarantined")
def erase_removals(t: Transaction, owner: str) -> Rows:
    return [(row.provider, row.token, row.account, row.quarantined) for row in _erase(t, t.database.removal, owner)]


@does(erasing._SESSIONS)
def erase_sessions(t: Transaction, owner: str) -> Rows:
    return [(1,) for _ in _erase(t, t.database.session, owner)]


@does(erasing._PSEUDONYM)
def erase_pseudonym(t: Transaction, owner: str) -> Rows:
    return [(1,) for _ in _erase(t, t.database.pseudonym, owner)]


@does(erasing._JOBS)
def erase_jobs(t: Transaction, owner: str) -> Rows:
    for row in [row for row in t.all(t.database.job) if row.state in ENDED and owner.encode() in row.arguments]:
        t.delete(t.database.job, row)
    return ()


@does(erasing._NOT_SHARED, names="token")
def not_shared(t: Transaction, providers: Sequence[str], tokens: Sequence[str]) -> Rows:
    found = []
    for provider, token in zip(providers, tokens, strict=True):
        devices = [row for row in t.where(t.database.device, ("token",), token) if row.provider == provider]
        if not devices and not t.where(t.database.removal, ("token", "provider"), (token, provider)):
            found.append((token,))
    return sorted(found)


@does(erasing._XID)
def own_number(t: Transaction) -> Rows:
    return [(t.numbered(),)]


@does(erasing._WINDOW, names="xid seq day id own")
def window(t: Transaction, stream: int, xid: int, seq: int, owner: str, marks_before: int) -> Rows:
    rows = [row for row in t.database.event.after(stream, xid, seq) if t.sees(row)][: erasing.WINDOW]
    found = []
    for row in rows:
        own = row.owner == owner and (row.id is not None or row.xid < marks_before)
        if own or row is rows[-1]:
            found.append((row.xid, row.seq, row.day, row.id, own))
    return found


@does(erasing._KEPT)
def kept_of(t: Transaction, streams: Sequence[int], owner: str) -> Rows:
    rows = [row for row in t.all(t.database.kept) if row.stream in streams and row.owner == owner]
    return [(*place(row), row.day, row.id) for row in rows]


@does(erasing._DELETE_EVENTS)
def erase_events(t: Transaction, *columns: Sequence[int]) -> Rows:
    for stream, xid, seq, day in zip(*columns, strict=True):
        if (row := event_at(t, day, (stream, xid, seq))) is not None:
            t.delete(t.database.event, row)
    return ()


@does(erasing._DELETE_KEPT)
def erase_kept(t: Transaction, *columns: Sequence[int]) -> Rows:
    for at in zip(*columns, strict=True):
        if (row := t.get(t.database.kept, at)) is not None:
            t.delete(t.database.kept, row)
    return ()


def _erase_at(t: Transaction, table: Table, columns: Iterable[Sequence[int]]) -> list[Row]:
    rows = [row for at in zip(*columns, strict=True) for row in t.where(table, _PLACE, at)]
    for row in rows:
        t.delete(table, row)
    return rows


@does(erasing._DELETE_PARKED)
def erase_parked(t: Transaction, *columns: Sequence[int]) -> Rows:
    return [place(row) for row in _erase_at(t, t.database.parked, columns)]


@does(erasing._DELETE_SETTLEMENTS)
def erase_settlements(t: Transaction, *columns: Sequence[int]) -> Rows:
    return [(*place(row), row.unit, row.attempts) for row in _erase_at(t, t.database.settlement, columns)]


@does(erasing._DELETE_IDS)
def erase_ids(t: Transaction, ids: Sequence[str]) -> Rows:
    for id in ids:
        if (row := t.get(t.database.event_id, id)) is not None:
            t.delete(t.database.event_id, row)
    return ()


@does(erasing._BLANK_SIGNALS)
def blank_signals(t: Transaction, owner: str, harmless: str) -> Rows:
    for row in [row for row in t.all(t.database.signal) if owner in row.body]:
        t.update(t.database.signal, row, body=harmless)
    return ()


@does_all(r"SELECT EXISTS \(SELECT 1 FROM (\w+) WHERE owner = \$1\)")
def has_rows(t: Transaction, name: str, owner: str) -> Rows:
    return [(any(row.owner == owner for row in t.all(getattr(t.database, name))),)]


def _texts(table: str) -> str:
    key, content = erasing._TEXTS[table]
    return erasing._IN_TEXTS.format(table=table, key=key, content=content)


def _in_texts(table: str, key: str, column: str) -> None:
    @does(_texts(table))
    def in_texts(t: Transaction, after: int, needles: Sequence[bytes]) -> Rows:
        rows = sorted([row for row in t.all(getattr(t.database, table)) if getattr(row, key) > after],
                      key=lambda row: getattr(row, key))[: erasing.WINDOW]  # fmt: skip
        values = [getattr(row, column) for row in rows]
        contents = [value.encode() if isinstance(value, str) else value for value in values]
        found = any(needle in content for content in contents for needle in needles)
        return [(getattr(rows[-1], key) if rows else None, found if rows else None)]


for _table, _key, _column in (("job", "seq", "arguments"), ("signal", "id", "body"), ("audit", "seq", "text")):
    _in_texts(_table, _key, _column)


@does(erasing._IN_RECEIPTS)
def in_receipts(t: Transaction, stream: int, xid: int, seq: int, unit: int, needles: Sequence[str]) -> Rows:
    rows = [row for row in t.all(t.database.settlement) if row.stream == stream]
    rows = [row for row in rows if (row.xid, row.seq, row.unit) > (xid, seq, unit)]
    rows.sort(key=lambda row: (row.xid, row.seq, row.unit))
    rows = rows[: erasing.WINDOW]
    if not rows:
        return [(None, None, None, None)]
    last, found = rows[-1], any(needle in row.attempts for row in rows for needle in needles)
    return [(last.xid, last.seq, last.unit, found)]
