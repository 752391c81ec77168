"""Mutations of tocsin's lines, for `bugs.py`: each is patched in while a seed runs."""

from __future__ import annotations
import __future__

import asyncio
import inspect
import itertools
import textwrap
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Final
from unittest.mock import patch

from msgspec.structs import replace

from tocsin.delivery import dead_tokens
from tocsin.delivery.breaker import Breaker
from tocsin.delivery.cancellations import Cancellations
from tocsin.delivery.expanding import Expanding
from tocsin.delivery.lane import Lane
from tocsin.delivery.lane_book import LaneBook
from tocsin.delivery.pauses import Pauses
from tocsin.delivery.sending import Sending
from tocsin.domain.outcomes import Backoff
from tocsin.http2.connection import Connection
from tocsin.http2.dialler import Dialler
from tocsin.ingest.batch import Ingest
from tocsin.providers.apns import judging as apns_judging
from tocsin.providers.apns import provider as apns_provider
from tocsin.providers.apns.judging import ApnsJudge
from tocsin.providers.base import delivery_id
from tocsin.providers.fcm import judging as fcm_judging
from tocsin.providers.fcm.access_token import AccessToken
from tocsin.service.watchers import Watchers
from tocsin.store.claims import Claims
from tocsin.store.leases import Leases
from tocsin.store.ports import StoreUnavailable
from tocsin.store.records import Item
from tocsin.store.sqlite import housekeeping
from tocsin.store.sqlite.event_log import SqliteEventLog
from tocsin.store.sqlite.housekeeping import Housekeeping
from tocsin.store.sqlite.queue import SqliteQueue
from tocsin.store.sqlite.registry import SqliteRegistry
from tocsin.store.sqlite.schedule import SqliteSchedule
from tocsin.store.sqlite.search_feed import Batch, Recent
from tocsin.store.sqlite.transactions import Writes
from tocsin.store.sqlite.worker import Job

Mutate = Callable[[ExitStack], None]


def replaced(owner: Any, name: str, by: Any) -> Mutate:
    return lambda patches: patches.enter_context(patch.object(owner, name, by))


def line_replaced(owner: Any, name: str, line: str, by: str) -> Mutate:
    """One function with a part of one line replaced in its own source.

    Raises:
        AssertionError: its source does not have that part, or has it twice.
    """
    function = vars(owner)[name]
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(line) == 1, f"{owner}.{name} has not one {line!r}"
    names: dict[str, Any] = {}
    code = compile(
        source.replace(line, by), inspect.getfile(function), "exec", flags=__future__.annotations.compiler_flag
    )
    exec(code, function.__globals__, names)
    return replaced(owner, name, names[name])


# -- the store ---------------------------------------------------------------------------------------------------------


async def answered_before_its_commit(queue: SqliteQueue, events: Sequence[Any]) -> None:
    appending = asyncio.ensure_future(queue._appender.append(events))
    appending.add_done_callback(lambda done: done.cancelled() or done.exception())


def offered_to_two(leases: Leases, items: list[Item]) -> list[Item]:
    """Every twentieth item is offered again while its owner still has it."""
    granted = _grant(leases, items)
    for item in granted:
        if item.handle.number % 20 == 0:  # type: ignore[attr-defined]
            leases._offer_again(item, item.handle)  # type: ignore[arg-type]
    return granted


_grant: Final = Leases.grant


def not_noted(schedule: SqliteSchedule, parked: Sequence[Any]) -> None:
    """Nobody remembers when what was parked is due."""


_run_jobs: Final = Writes.run


def refused_and_called_done(writes: Writes, jobs: list[Job]) -> None:
    """A commit that has failed with an I/O error is answered as if it had not."""
    _run_jobs(writes, jobs)
    for job in jobs:
        if isinstance(job.error, StoreUnavailable) and "I/O" in str(job.error) and job.result is not None:
            job.error = None


async def not_moved(claims: Claims, bring_forward: Any) -> None:
    """What is parked waits until the clock, which was set back, reaches its due time again."""


async def purge(registry: SqliteRegistry, account: str, max_tokens: int) -> int:
    return await registry.purge_quarantine(account)


async def replay(log: SqliteEventLog, ids: Any) -> int:
    return await log.replay(ids, 60_000)


def every_other(recent: Recent, id: int, settlements: Sequence[Any], leases: Sequence[Any]) -> Callable[[], None]:
    """Of what was settled together, the search gets to know the first one only."""
    keep, kept = _settled(recent, id, settlements[:1], leases[:1]), recent._kept.batches

    def keep_the_first() -> None:
        keep()
        if id in kept:
            first = kept[id]
            kept[id] = Batch(first.values * len(leases), first.others * len(leases))

    return keep_the_first


_settled: Final = Recent.settled


def without_the_last(ingest: Ingest, body: bytes) -> list[bytes]:
    """The last line of a batch is taken for the end of the line before it."""
    lines = _lines(ingest, body)
    return lines[:-1] if len(lines) > 1 else lines


_lines: Final = Ingest._lines


async def never_pruned(housekeeping: Housekeeping, retention: Any, *, for_s: float) -> bool:
    """What is old stays."""
    return False


def forgotten_alike(patches: ExitStack) -> None:
    """Dead letters are forgotten as early as what was delivered."""
    before = housekeeping._Before

    def alike(*, done_ms: int, dead_ms: int, **more: int) -> Any:
        return before(done_ms=done_ms, dead_ms=done_ms, **more)

    patches.enter_context(patch.object(housekeeping, "_Before", alike))


# -- delivery ----------------------------------------------------------------------------------------------------------


def never_a_probe(pauses: Pauses) -> int | None:
    return 0 if pauses.of_lane else None


_links: Final = itertools.count()
_failure: Final = Breaker.failure


def whoever_it_was(breaker: Breaker, device: str) -> bool:
    """Every failure counts, as if it were another device's each time."""
    return _failure(breaker, f"{device} {next(_links)}")


def forgotten(cancellations: Cancellations, owner: Any, provider: str, token: str) -> None:
    """A deletion is not remembered: what waits in memory is sent."""


def without_lifetimes(patches: ExitStack) -> None:
    """Neither when a delivery is made nor before it is sent does anybody look at its lifetime."""
    expand = Expanding.expand

    def expanded(expanding: Expanding, items: Any, devices: Any, now_ms: int) -> Any:
        return expand(expanding, items, devices, 0)

    patches.enter_context(patch.object(Expanding, "expand", expanded))
    sent_whenever(patches)


def sent_whenever(patches: ExitStack) -> None:
    """Just before a delivery is sent nobody looks at its lifetime again."""
    init = Sending.__init__

    def made(sending: Sending, *args: Any, **more: Any) -> None:
        init(sending, *args, **more)
        now_ms = sending._now_ms
        sending._now_ms = lambda: now_ms() - 3_600_000

    patches.enter_context(patch.object(Sending, "__init__", made))


_token: Final = dead_tokens._Dead.token


def dead_whenever_registered(dead: dead_tokens._Dead) -> Any:
    """As if the provider had said that the token died just now, however old its answer is."""
    return replace(_token(dead), before_us=2**60)


def global_bound(patches: ExitStack) -> None:
    """Nothing is claimed while more than 16 KB are claimed and not settled, whoever holds them."""
    held: dict[int, int] = {}
    claim, settle = SqliteQueue._claim, SqliteQueue.settle

    async def bounded(queue: SqliteQueue, limit: int) -> list[Item]:
        if held.setdefault(id(queue), 0) > 16 * 1024:
            await asyncio.sleep(0.05)
            return []
        items = await claim(queue, limit)
        held[id(queue)] += sum(len(item.event.body) for item in items)
        return items

    async def settled(queue: SqliteQueue, settlements: Any) -> list[bool]:
        done = await settle(queue, settlements)
        held[id(queue)] = max(0, held.get(id(queue), 0) - sum(len(one.item.event.body) for one in settlements))
        return done

    patches.enter_context(patch.object(SqliteQueue, "_claim", bounded))
    patches.enter_context(patch.object(SqliteQueue, "settle", settled))


def urgent_waits(patches: ExitStack) -> None:
    """What comes to a lane that is full is parked, urgent or not, and not claimed as long as that lane is full."""

    def no_place(lane: Lane, deliveries: Sequence[Any]) -> list[Any]:
        lane.unsent(*deliveries)
        return list(deliveries)

    replaced(Lane, "_take_places", no_place)(patches)
    replaced(LaneBook, "room_for_the_fewer", no_room)(patches)


def no_room(self: LaneBook, name: str) -> tuple[bool, int]:
    """As `LaneBook.room_for_the_fewer`, for every lane that is full."""
    return True, 0


def only_urgent(room: int, urgent: int, others: int, turn: int) -> tuple[int, int]:
    """Nothing is kept for what is not urgent."""
    first = min(urgent, room)
    return first, min(others, room - first)


def pauses_everybody(pauses: Pauses, topic: str, reason: str, *, complaining: Any = ()) -> None:
    pauses.misconfigured(reason)


# -- providers and connections -----------------------------------------------------------------------------------------


def other_ids(patches: ExitStack) -> None:
    numbers = itertools.count()
    other = lambda event_id, token: delivery_id(event_id, f"{token}{next(numbers)}")  # noqa: E731
    patches.enter_context(patch.object(apns_provider, "delivery_id", other))


_access_header: Final = AccessToken.header


def until_refused(access: AccessToken) -> bytes | None:
    known = access._header
    return _access_header(access) if known is None or known == access._invalid else known


def judged_like(module: Any, key: tuple[int, str], like: tuple[int, str]) -> Mutate:
    """One answer is judged as another is."""
    return lambda patches: patches.enter_context(patch.dict(module.TABLE, {key: module.TABLE[like]}))


_consequence: Final = ApnsJudge._consequence


def no_row(judge: ApnsJudge, request: Any, row: Any, answer: Any, timestamp_ms: int | None) -> Any:
    """One kind of answer cannot be judged. It is tried again, and the exception is in the log alone."""
    if answer.status == 429:
        raise KeyError(answer.reason)
    return _consequence(judge, request, row, answer, timestamp_ms)


async def division(watchers: Watchers) -> None:
    """A periodic duty fails each time; the others are done."""
    raise ZeroDivisionError


def no_retry_after(patches: ExitStack) -> None:
    """What a provider asks for in Retry-After is not read."""
    for module in (apns_judging, fcm_judging):
        patches.enter_context(patch.object(module, "retry_after_s", lambda request, now_s: None))


def tried_at_once(module: Any, key: tuple[int, str]) -> Mutate:
    """After one answer a delivery is tried again at once, also the next times."""
    row = replace(module.TABLE[key], backoff=Backoff(0.001, 0.001))
    return lambda patches: patches.enter_context(patch.dict(module.TABLE, {key: row}))


_settings_changed: Final = Connection._settings_changed


def first_settings_only(connection: Connection[Any], settings: Any) -> None:
    """A limit of streams that is lowered later is not noticed."""
    limit = connection._limit
    _settings_changed(connection, settings)
    if connection.answered:
        connection._limit = max(limit, connection._limit)


def no_back_off(dialler: Dialler[Any], why: str) -> None:
    dialler.failures += 1
