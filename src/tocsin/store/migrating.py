"""Moves a store from SQLite to PostgreSQL: all that it keeps, in steps, and compared at the end.

The source is read, and marked: nobody uses it meanwhile, and nobody by mistake afterwards. A move that was killed goes
on with the row after the last that is in the target.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tocsin.settings import Settings
from tocsin.store.master_keys import configured
from tocsin.store.moved_rows import PARTS, Checksum, EventRow
from tocsin.store.opening import password, require_driver
from tocsin.store.ports import StoreError
from tocsin.store.sealer import refuse_missing
from tocsin.store.share import Share, Told

if TYPE_CHECKING:
    from tocsin.store.postgres.arriving import ArrivingStore
    from tocsin.store.sqlite.leaving import LeavingStore

_STEP_ROWS: Final = 500
_STEP_BYTES: Final = 4 * 1024 * 1024
_TELL_EVERY_S: Final = 2.0


_TIMES: Final = 3
"""How often each row is worked on: copied, and read on both sides to be compared."""


async def migrate(path: Path, settings: Settings, tell: Callable[[str], None], far: Told | None = None) -> bool:
    """Move the store in the file `path` to the database that `settings` name. `tell` is told in words how far it is,
    and `far` which share of all the work is done.

    Returns whether anything was left to do.

    Raises:
        StoreError: one of them cannot be used; what is there by then stays, and the next call goes on.
    """
    require_driver()
    from tocsin.store.postgres.arriving import arriving
    from tocsin.store.sqlite.leaving import leaving

    with leaving(path) as source:
        refuse_missing(configured(settings).read(), source.used_keys())
        async with arriving(settings.store.direct_url, password(settings)) as target:
            before = source.mark
            if before is not None and (before.done or before.to != target.name):
                if before.done and before.to == target.name and await target.is_complete(before.id):
                    return False
                raise StoreError(
                    f"{path}: {'was' if before.done else 'is being'} moved to {before.to}; to move it elsewhere, give"
                    f" that up with `tocsin store migrate --from sqlite:{path} --take-back`"
                )
            mark = source.set_mark(target.name, done=False)
            if not await target.is_complete(mark.id):
                try:
                    await target.begin(mark.id)
                except StoreError:
                    if before is None:
                        source.take_back()
                    raise
                share = Share(_TIMES * sum(source.count(part) for part in PARTS), far)
                for part in PARTS:
                    await _copy(source, target, part, tell, share)
                for part in PARTS:
                    await _compare(source, target, part, tell, share)
                await target.finish(mark.id)
            return True


def set_done(path: Path) -> None:
    """The target is in order: from now on the source says that it has moved. Raises StoreError."""
    from tocsin.store.sqlite.leaving import leaving

    with leaving(path) as source:
        mark = source.mark
        assert mark is not None
        source.set_mark(mark.to, done=True)


def take_back(path: Path) -> bool:
    """Let the source be used again, as it is; whether it was marked. Raises StoreError."""
    from tocsin.store.sqlite.leaving import leaving

    with leaving(path) as source:
        marked = source.mark is not None
        source.take_back()
        return marked


async def _copy(
    source: LeavingStore, target: ArrivingStore, part: str, tell: Callable[[str], None], share: Share
) -> None:
    total, after = source.count(part), await target.reached(part)
    batch: list[Any] = []
    size, copied, told_at = 0, 0, time.monotonic()
    reached = 0
    for reached, row in source.rows(part, after):
        batch.append(row)
        size += row.held_bytes if isinstance(row, EventRow) else 0
        if len(batch) == _STEP_ROWS or size >= _STEP_BYTES:
            await target.write(part, batch, reached)
            copied += len(batch)
            share.more(len(batch))
            batch, size = [], 0
            if time.monotonic() - told_at > _TELL_EVERY_S:
                told_at = time.monotonic()
                tell(f"{part}: {copied:,} of {total:,}" + (" (some were there)" if after is not None else ""))
    if batch:
        await target.write(part, batch, reached)
    # The rest of this call, and what calls before it have copied.
    share.more(total - copied)


async def _compare(
    source: LeavingStore, target: ArrivingStore, part: str, tell: Callable[[str], None], share: Share
) -> None:
    """Raises StoreError where what is in the target is not what is in the source."""
    ours, theirs = Checksum(), Checksum()
    for _, row in source.rows(part):
        ours.add((row,))
        share.more()
    async for rows in target.rows(part):
        theirs.add(rows)
        share.more(len(rows))
    if ours != theirs:
        raise StoreError(
            f"{target.name}: {part}: is not what the source has ({theirs} here, {ours} there); empty the database, run"
            f" `tocsin store migrate --from sqlite:{source.path} --take-back`, and begin again"
        )
    if ours.rows:
        tell(f"{part}: {ours}, the same in both")
