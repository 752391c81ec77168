"""The index of the search: a file of its own beside the store, made from it, and made again where it is lost.

It has one small row for each event that was settled: its owner, and its shape (`store/searching.py`). Everything else
stands in the store, by the event's number. The rows lie in parts, by that number: each part is a table whose index
fits the cache, however many events there are, and is dropped as a whole.

The file is written without a sync for each batch (`synchronous=NORMAL`): after a power cut it may have lost the last
batches, but it knows how far it is (`position`), and what follows is still in the feed. Where it is not, or where the
store was replaced by a backup, the index is made again from the store, in steps. So it is where a sync has failed: what
was written before may be gone, though it can be read, and no later sync brings it back (fsync(2)).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from tocsin.store.records import Attempt, IndexState, Parked, State
from tocsin.store.search_shapes import Shapes, owner_key
from tocsin.store.searching import Combination, Shape
from tocsin.store.sqlite import rows
from tocsin.store.sqlite.connection import connect, file_uri
from tocsin.store.sqlite.durable import make_name_durable
from tocsin.store.sqlite.search_feed import Recent, Seen

FORMAT: Final = 1
"""Of the file: one of another format is made again."""
PART_EVENTS: Final = 100_000
_FEED_ROWS: Final = 64
_FED_EVENTS: Final = 4000
"""A step takes so many rows of the feed, or fewer that name so many events: it is not to last long."""
_SCAN_EVENTS: Final = 2000
_CACHE_KIB: Final = 16 * 1024
_CHECKPOINT_STEPS: Final = 256
"""Each of a few pages, or some thirty."""

_META: Final = """
CREATE TABLE meta(name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE part(n INTEGER PRIMARY KEY, shapes TEXT NOT NULL, by_owner INTEGER NOT NULL DEFAULT 0);
CREATE TABLE shape(id INTEGER PRIMARY KEY, message TEXT NOT NULL, combinations TEXT NOT NULL);
"""
_PART: Final = """
CREATE TABLE IF NOT EXISTS seen_{n}(seq INTEGER PRIMARY KEY, owner INTEGER NOT NULL, shape INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS seen_{n}_rare ON seen_{n}(shape) WHERE shape > 0;
"""
# When the next part begins: sorted in one go, it takes a third of the time, and its pages are written once.
_BY_OWNER: Final = "CREATE INDEX IF NOT EXISTS seen_{n}_owner ON seen_{n}(owner)"
_INSERT: Final = "INSERT OR REPLACE INTO seen_{n}(seq, owner, shape) VALUES {{rows}}"
_DELETE: Final = "DELETE FROM seen_{n} WHERE seq IN (VALUES {{rows}})"
_FEED: Final = (
    "SELECT json_group_array(json_array(id, count, seqs)) FROM"
    f" (SELECT * FROM store.search_feed WHERE id > ? ORDER BY id LIMIT {_FEED_ROWS})"
)
_WAITING: Final = "SELECT coalesce(sum(count), 0), min(at_ms) FROM store.search_feed WHERE id > ?"
_BOUNDS: Final = "SELECT coalesce(min(id), 0), coalesce(max(id), 0) FROM store.search_feed"
# Put together by SQLite, in one step: each step of a statement costs a change of threads (`database.py`).
_ROW: Final = (
    """'[' || seq || ',"' || owner || '",' || json_quote(message) || ',' || state || ',' || (waiting > 0) || ','"""
    """ || accepted_ms || ',[' || coalesce(attempts, '') || ']]'"""
)
# The row of an event whose user was erased may still be there, without anything in it (`erasing.py`).
_NAMED: Final = (
    f"SELECT group_concat({_ROW}) FROM store.event WHERE seq IN (SELECT value FROM json_each(?)) AND message <> ''"
)
# Without the contents, which would be read for nothing.
_RANGE: Final = (
    f"SELECT max(seq), group_concat(CASE WHEN state = {int(State.ACCEPTED)} THEN NULL ELSE {_ROW} END) FROM"
    " (SELECT seq, owner, message, state, waiting, accepted_ms, attempts FROM store.event WHERE seq > ? AND seq <= ?"
    f" ORDER BY seq LIMIT {_SCAN_EVENTS})"
)
_SHAPES: Final = "SELECT json_group_array(json_array(id, message, json(combinations))) FROM shape"
PARKED: Final = (
    "SELECT json_group_array(json_array(seq, json_array(lane, due_ms, tries, json(targets)))) FROM store.parked"
    " WHERE seq IN (SELECT value FROM json_each(?))"
)


class _Row(Struct, array_like=True, gc=False):
    seq: int
    owner: str
    message: str
    state: int
    waits: int
    accepted_ms: int
    attempts: list[_Brief]


class _Brief(Struct, array_like=True, gc=False):
    """The beginning of an `Attempt`, which is all that is needed here."""

    at_ms: int
    device: str
    lane: str
    result: str
    status: int = 0
    reason: str = ""


_decode_feed = msgspec.json.Decoder(list[tuple[int, int, str]]).decode
_decode_rows = msgspec.json.Decoder(list[_Row]).decode
decode_parked = msgspec.json.Decoder(list[tuple[int, Parked]]).decode
_encode = msgspec.json.Encoder().encode
_decode_shapes = msgspec.json.Decoder(list[tuple[int, str, tuple[Combination, ...]]]).decode


def index_path(store: Path) -> Path:
    """Beside the file itself, as the log is, where `store` is a symbolic link."""
    file = Path(os.path.realpath(store))
    return file.with_name(file.name + "-search")


def files_of(store: Path) -> list[Path]:
    """The index's file, and after it what SQLite may lay beside it."""
    path = index_path(store)
    return [path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal"))]


def delete(store: Path) -> None:
    """Delete the index for good: no power cut brings anything back.

    The file is gone before its log is touched. While the log is moved into the file, some pages of a step are there
    before others: without the log, the file might name a position and lack what leads to it.

    Raises:
        OSError: it cannot be deleted, or nobody knows what a power cut would leave. It has to be repeated.
    """
    file, *beside = files_of(store)
    for files in ([file], beside):
        for one in files:
            one.unlink(missing_ok=True)
        make_name_durable(file)


class SearchIndex:
    """The index on one connection, with the store attached to it read-only. Runs on one thread."""

    def __init__(self, store: Path, recent: Recent, *, read_only: bool = False) -> None:
        self._store = store
        self._recent = recent
        self._read_only = read_only
        self.driver = self._open()
        self._shapes = Shapes({}, self._write_shape)
        self._parts: dict[int, set[int]] = {}
        self.position = self.rebuilt = self.rebuild_until = 0
        self._steps = 0
        """Since the last checkpoint."""
        if not read_only:
            try:
                self._begin()
            except BaseException:
                self.driver.close()
                raise

    def _open(self) -> sqlite3.Connection:
        path = index_path(self._store)
        # Only where there is none: to close a file gives back the locks that the process has on it (fcntl(2)).
        if not self._read_only and not path.exists():
            # A power cut may have come between the file and its log.
            delete(self._store)
            # Like the store: nobody but its user may read it.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        return connect(path, self._prepare, read_only=self._read_only)

    def _prepare(self, driver: sqlite3.Connection) -> None:
        if not self._read_only:
            driver.execute("PRAGMA secure_delete=ON")
            driver.execute("PRAGMA journal_mode=WAL")
            driver.execute("PRAGMA synchronous=NORMAL")
            # SQLite would keep it to itself that a sync has failed at a checkpoint of its own.
            driver.execute("PRAGMA wal_autocheckpoint=0")
        driver.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        driver.execute("PRAGMA temp_store=MEMORY")
        driver.execute("ATTACH DATABASE ? AS store", (file_uri(self._store, read_only=True),))

    def close(self) -> None:
        self.driver.close()

    # -- life ----------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Go on where the file is; or make it again, where it does not belong to this store."""
        driver = self.driver
        tables = driver.execute("SELECT count(*) FROM main.sqlite_master WHERE name IN ('meta', 'part')").fetchone()[0]
        meta = meta_of(driver) if tables == 2 else {}
        first, last = driver.execute(_BOUNDS).fetchone()
        position = meta.get("position", -1)
        if meta.get("format") != FORMAT or not max(0, first - 1) <= position <= last:
            self._make(last)
            return
        self.position = position
        self._parts = {}
        self.rebuilt, self.rebuild_until = meta["rebuilt"], meta["rebuild_until"]
        self._number({shape: id for id, shape in shapes_of(driver).items()})
        for n, shapes in driver.execute("SELECT n, shapes FROM part").fetchall():
            self._parts[n] = set(msgspec.json.decode(shapes, type=list[int]))

    def _make(self, position: int) -> None:
        """A new file; everything that the store has settled until now is read from it step by step (`scan`)."""
        driver = self.driver
        driver.execute("BEGIN IMMEDIATE")
        for (name,) in driver.execute(
            "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        ).fetchall():
            driver.execute(f'DROP TABLE main."{name}"')
        for statement in _META.split(";"):
            driver.execute(statement)
        (newest,) = driver.execute("SELECT coalesce(max(seq), 0) FROM store.event").fetchone()
        self.position, self.rebuilt, self.rebuild_until = position, 0, newest
        self._parts = {}
        self._number({})
        self._write_meta("format", FORMAT)
        self._commit()

    def _number(self, shapes: dict[Shape, int]) -> None:
        """Shapes have these numbers from now on, and no others."""
        self._shapes = Shapes(shapes, self._write_shape)
        self._recent.begin(self._shapes.alike)

    def _commit(self) -> None:
        for name in ("position", "rebuilt", "rebuild_until"):
            self._write_meta(name, getattr(self, name))
        self.driver.execute("COMMIT")

    def _write_meta(self, name: str, number: int) -> None:
        self.driver.execute("INSERT OR REPLACE INTO meta(name, number) VALUES (?, ?)", (name, number))

    # -- filling -------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Look at some hundred events that something has happened to; whether there may be more."""
        feed = _first(_decode_feed(self.driver.execute(_FEED, (self.position,)).fetchone()[0]))
        if not feed and self.rebuilt >= self.rebuild_until:
            self._recent.forget(self.position)
            return False
        driver = self.driver
        driver.execute("BEGIN IMMEDIATE")
        try:
            if feed:
                self._write_fed(feed)
                self.position = feed[-1][0]
            else:
                end, text = driver.execute(_RANGE, (self.rebuilt, self.rebuild_until)).fetchone()
                self._write(text)
                self.rebuilt = self.rebuild_until if end is None else end
            self._commit()
        except BaseException:
            if driver.in_transaction:
                driver.execute("ROLLBACK")
            self._begin()  # what is in memory is what is in the file
            raise
        self._steps += 1
        if self._steps >= _CHECKPOINT_STEPS:
            self.make_durable()
        return True

    def _write_fed(self, feed: Sequence[tuple[int, int, str]]) -> None:
        known = list[int]()
        to_read: list[str] = []
        for id, count, seqs in feed:
            batch = self._recent.take(id)
            known += batch.values
            known += self._values(batch.others)
            if len(batch) < count:
                have = {*batch.values[::3], *(one[0] for one in batch.others)}
                to_read += [seq for seq in seqs.split(",") if int(seq) not in have]
        self._insert(known)
        if to_read:
            # After those: what has happened since is in the store alone.
            found = self._write(self.driver.execute(_NAMED, (f"[{','.join(to_read)}]",)).fetchone()[0])
            self._delete({int(seq) for seq in to_read} - found)

    def _delete(self, seqs: Collection[int]) -> None:
        """Events that the store has no more: their user was erased."""
        for n in {seq // PART_EVENTS for seq in seqs} & self._parts.keys():
            own = [(seq,) for seq in seqs if seq // PART_EVENTS == n]
            rows.execute(self.driver, _DELETE.format(n=n), own)

    def _write(self, text: str | None) -> set[int]:
        """Returns the numbers of the events that are there."""
        found = _decode_rows(f"[{text or ''}]")
        waiting = [row.seq for row in found if row.waits]
        parked: dict[int, list[Parked]] = {}
        if waiting:
            (parked_text,) = self.driver.execute(PARKED, (_encode(waiting).decode(),)).fetchone()
            for seq, one in decode_parked(parked_text):
                parked.setdefault(seq, []).append(one)
        values = list[int]()
        for row in found:
            attempts = cast(list[Attempt], row.attempts)
            if row.waits:
                waits = parked.get(row.seq, ())
                shape = self._shapes.waiting(row.message, row.accepted_ms, attempts, waits, State(row.state))
            else:
                shape = self._shapes.settled(row.message, row.accepted_ms, attempts)
            values += (row.seq, owner_key(row.owner), shape)
        self._insert(values)
        return {row.seq for row in found}

    def _values(self, seen: Sequence[Seen]) -> list[int]:
        values = list[int]()
        for seq, owner, message, accepted_ms, attempts in seen:
            values += (seq, owner_key(owner), self._shapes.settled(message, accepted_ms, attempts))
        return values

    def _insert(self, values: Sequence[int]) -> None:
        """Rows one behind the other: an event's number, its owner's key, and its shape's number."""
        if not values:
            return
        seqs = values[::3]
        first, last = min(seqs) // PART_EVENTS, max(seqs) // PART_EVENTS
        if first == last:
            self._insert_into(first, values)
            return
        by_part: dict[int, list[int]] = {}
        for at, seq in enumerate(seqs):
            by_part.setdefault(seq // PART_EVENTS, []).extend(values[3 * at : 3 * at + 3])
        for n in sorted(by_part):
            self._insert_into(n, by_part[n])

    def _insert_into(self, n: int, values: Sequence[int]) -> None:
        self._note_shapes(n, set(values[2::3]))
        rows.execute_flat(self.driver, _INSERT.format(n=n), 3, values)

    def _write_shape(self, id: int, shape: Shape) -> None:
        values = (id, shape[0], _encode(shape[1]).decode())
        self.driver.execute("INSERT OR REPLACE INTO shape(id, message, combinations) VALUES (?, ?, ?)", values)

    def _note_shapes(self, n: int, shapes: set[int]) -> None:
        known = self._parts.get(n)
        if known is not None and shapes <= known:
            return
        if known is None:
            known = self._parts[n] = set()
            for statement in _PART.format(n=n).split(";"):
                self.driver.execute(statement)
            self._index_owners_before(n)
        known |= shapes
        values = (n, _encode(sorted(known)).decode())
        self.driver.execute(
            "INSERT INTO part(n, shapes) VALUES (?, ?) ON CONFLICT (n) DO UPDATE SET shapes = excluded.shapes", values
        )

    def _index_owners_before(self, n: int) -> None:
        without = self.driver.execute("SELECT n FROM part WHERE by_owner = 0 AND n < ?", (n,)).fetchall()
        for (earlier,) in without:
            self.driver.execute(_BY_OWNER.format(n=earlier))
            self.driver.execute("UPDATE part SET by_owner = 1 WHERE n = ?", (earlier,))

    # -- what can be forgotten -----------------------------------------------------------------------------------------

    def make_durable(self) -> int | None:
        """Sync what was written; returns the position that no power cut takes back, None where somebody still reads."""
        position, self._steps = self.position, 0
        busy, written, done = self.driver.execute("PRAGMA main.wal_checkpoint(PASSIVE)").fetchone()
        return position if not busy and written == done else None

    def prune(self) -> None:
        """Drop the parts of which the store has no event any more."""
        (oldest,) = self.driver.execute("SELECT min(seq) FROM store.event").fetchone()
        gone = [n for n in self._parts if oldest is not None and (n + 1) * PART_EVENTS <= oldest]
        for n in gone:
            self.driver.execute("BEGIN IMMEDIATE")
            self.driver.execute(f"DROP TABLE seen_{n}")
            self.driver.execute("DELETE FROM part WHERE n = ?", (n,))
            self.driver.execute("COMMIT")
            del self._parts[n]

    def state(self, now_ms: int) -> IndexState:
        meta = meta_of(self.driver)
        fed, since_ms = self.driver.execute(_WAITING, (meta["position"],)).fetchone()
        to_rebuild = meta["rebuild_until"] - meta["rebuilt"]
        if to_rebuild > 0:
            return IndexState(0.0, fed + to_rebuild, rebuilding=True, indexed_to_ms=None)
        behind_s = 0.0 if since_ms is None else max(0.0, (now_ms - since_ms) / 1000)
        return IndexState(behind_s, fed, rebuilding=False, indexed_to_ms=now_ms if since_ms is None else since_ms)


def _first(feed: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """As many rows of the feed as a step takes."""
    events = 0
    for index, (_, count, _) in enumerate(feed):
        events += count
        if events > _FED_EVENTS:
            return feed[: index + 1]
    return feed


def meta_of(driver: sqlite3.Connection) -> dict[str, int]:
    return dict(driver.execute("SELECT name, number FROM meta").fetchall())


class Part(Struct, frozen=True):
    """The events of one range of numbers, with the shapes that they have; `by_owner`: owners have an index there."""

    n: int
    by_owner: bool
    shapes: list[int]


def parts_of(driver: sqlite3.Connection) -> list[Part]:
    """The parts, newest first."""
    found: list[Any] = driver.execute("SELECT n, by_owner, shapes FROM part ORDER BY n DESC").fetchall()
    return [Part(n, bool(by_owner), msgspec.json.decode(shapes, type=list[int])) for n, by_owner, shapes in found]


def shapes_of(driver: sqlite3.Connection) -> dict[int, Shape]:
    (text,) = driver.execute(_SHAPES).fetchone()
    return {id: (message, combinations) for id, message, combinations in _decode_shapes(text)}
