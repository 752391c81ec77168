"""Seeded bugs: mutations of real lines, with which the simulator shows that it can fail.

Each is patched in while a seed runs, names the invariants that find it, and is found within a stated number of seeds.
"""

from __future__ import annotations
import __future__

import asyncio
import inspect
import itertools
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

from msgspec import Struct
from msgspec.structs import replace

from tests.simulator.judge import Invariant
from tests.simulator.plan import Plan, Size, make_plan
from tocsin.delivery import dead_tokens, lane
from tocsin.delivery.breaker import Breaker
from tocsin.delivery.cancellations import Cancellations
from tocsin.delivery.expanding import Expanding
from tocsin.delivery.lane import Lane
from tocsin.delivery.pauses import Pauses
from tocsin.delivery.ramp import Ramp
from tocsin.delivery.sending import Sending
from tocsin.delivery.settling import Settling
from tocsin.domain.outcomes import Backoff
from tocsin.http2.connection import Connection
from tocsin.http2.dialler import Dialler
from tocsin.ingest.batch import Ingest
from tocsin.providers.apns import answers as apns_answers
from tocsin.providers.apns import judging as apns_judging
from tocsin.providers.apns import provider as apns_provider
from tocsin.providers.apns.judging import ApnsJudge
from tocsin.providers.apns.provider_token import ProviderToken
from tocsin.providers.base import delivery_id
from tocsin.providers.fcm import answers as fcm_answers
from tocsin.providers.fcm import judging as fcm_judging
from tocsin.providers.fcm.access_token import AccessToken
from tocsin.providers.fcm.judging import FcmJudge
from tocsin.service.periodic import Duty
from tocsin.service.watchers import Watchers
from tocsin.store.claims import Claims
from tocsin.store.leases import Leases
from tocsin.store.ports import StoreUnavailable
from tocsin.store.records import Item
from tocsin.store.sqlite import housekeeping, retiring
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.event_log import SqliteEventLog
from tocsin.store.sqlite.housekeeping import Housekeeping
from tocsin.store.sqlite.queue import SqliteQueue
from tocsin.store.sqlite.registry import SqliteRegistry
from tocsin.store.sqlite.schedule import SqliteSchedule
from tocsin.store.sqlite.search_feed import Recent
from tocsin.store.sqlite.transactions import Writes
from tocsin.store.sqlite.worker import Job

Mutate = Callable[[ExitStack], None]


class Bug(Struct, frozen=True):
    name: str
    mutate: Mutate
    found_by: tuple[Invariant, ...]
    within: int
    """How many seeds it takes at most, from `first` on."""
    first: int = 1
    troubles: frozenset[str] | None = None
    """The kinds of trouble of the plans (`plan.TROUBLES`), in place of those that the seeds draw."""
    skew_s: float = 0.0
    """Of the plans, where `troubles` are given."""
    size: Size | None = None
    """Of the plans, in place of the size that the seeds draw."""
    is_added: bool = False
    """No line of tocsin is another: something that goes wrong is added to what it does."""

    def plan(self, seed: int) -> Plan:
        return make_plan(seed, troubles=self.troubles, skew_s=self.skew_s, size=self.size)


@contextmanager
def seeded(bug: Bug | None) -> Iterator[None]:
    with ExitStack() as patches:
        if bug is not None:
            bug.mutate(patches)
        yield


def _by(owner: Any, name: str, by: Any) -> Mutate:
    return lambda patches: patches.enter_context(patch.object(owner, name, by))


def _line(owner: Any, name: str, line: str, by: str) -> Mutate:
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
    return _by(owner, name, names[name])


# -- the store ---------------------------------------------------------------------------------------------------------


async def _answered_before_its_commit(queue: SqliteQueue, events: Sequence[Any]) -> None:
    appending = asyncio.ensure_future(queue._appender.append(events))
    appending.add_done_callback(lambda done: done.cancelled() or done.exception())


def _offered_to_two(leases: Leases, items: list[Item]) -> list[Item]:
    """Every twentieth item is offered again while its owner still has it."""
    granted = _grant(leases, items)
    for item in granted:
        if item.handle.number % 20 == 0:  # type: ignore[attr-defined]
            leases._offer_again(item, item.handle)  # type: ignore[arg-type]
    return granted


_grant: Final = Leases.grant


def _not_noted(schedule: SqliteSchedule, parked: Sequence[Any]) -> None:
    """Nobody remembers when what was parked is due."""


_run_jobs: Final = Writes.run


def _refused_and_called_done(writes: Writes, jobs: list[Job]) -> None:
    """A commit that has failed with an I/O error is answered as if it had not."""
    _run_jobs(writes, jobs)
    for job in jobs:
        if isinstance(job.error, StoreUnavailable) and "I/O" in str(job.error) and job.result is not None:
            job.error = None


async def _not_moved(claims: Claims, bring_forward: Any) -> None:
    """What is parked waits until the clock, which was set back, reaches its due time again."""


async def _purge(registry: SqliteRegistry, account: str, max_tokens: int) -> int:
    return await registry.purge_quarantine(account)


async def _replay(log: SqliteEventLog, ids: Any) -> int:
    return await log.replay(ids, 60_000)


def _every_other(recent: Recent, id: int, settlements: Sequence[Any], leases: Sequence[Any]) -> None:
    """Of what was settled together, the search gets to know the first one only."""
    _settled(recent, id, settlements[:1], leases[:1])
    recent._batches[id] *= len(leases)


_settled: Final = Recent.settled


def _without_the_last(ingest: Ingest, body: bytes) -> list[bytes]:
    """The last line of a batch is taken for the end of the line before it."""
    lines = _lines(ingest, body)
    return lines[:-1] if len(lines) > 1 else lines


_lines: Final = Ingest._lines


async def _never(housekeeping: Housekeeping, retention: Any, *, for_s: float) -> bool:
    """What is old stays."""
    return False


def _forgotten_alike(patches: ExitStack) -> None:
    """Dead letters are forgotten as early as what was delivered."""
    before = housekeeping._Before

    def alike(*, done_ms: int, dead_ms: int, **more: int) -> Any:
        return before(done_ms=done_ms, dead_ms=done_ms, **more)

    patches.enter_context(patch.object(housekeeping, "_Before", alike))


# -- delivery ----------------------------------------------------------------------------------------------------------


def _never_a_probe(pauses: Pauses) -> int | None:
    return 0 if pauses.of_lane else None


_links: Final = itertools.count()
_failure: Final = Breaker.failure


def _whoever_it_was(breaker: Breaker, device: str) -> bool:
    """Every failure counts, as if it were another device's each time."""
    return _failure(breaker, f"{device} {next(_links)}")


def _forgotten(cancellations: Cancellations, owner: Any, provider: str, token: str) -> None:
    """A deletion is not remembered: what waits in memory is sent."""


def _without_lifetimes(patches: ExitStack) -> None:
    """Neither when a delivery is made nor before it is sent does anybody look at its lifetime."""
    expand = Expanding.expand

    def expanded(expanding: Expanding, items: Any, devices: Any, now_ms: int) -> Any:
        return expand(expanding, items, devices, 0)

    patches.enter_context(patch.object(Expanding, "expand", expanded))
    _sent_whenever(patches)


def _sent_whenever(patches: ExitStack) -> None:
    """Just before a delivery is sent nobody looks at its lifetime again."""
    init = Sending.__init__

    def made(sending: Sending, *args: Any, **more: Any) -> None:
        init(sending, *args, **more)
        now_ms = sending._now_ms
        sending._now_ms = lambda: now_ms() - 3_600_000

    patches.enter_context(patch.object(Sending, "__init__", made))


_token: Final = dead_tokens._Dead.token


def _dead_whenever_registered(dead: dead_tokens._Dead) -> Any:
    """As if the provider had said that the token died just now, however old its answer is."""
    return replace(_token(dead), before_us=2**60)


def _global_bound(patches: ExitStack) -> None:
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


def _no_place(lane: Lane, deliveries: Sequence[Any]) -> list[Any]:
    """What comes to a lane that is full is parked, urgent or not."""
    lane.unsent(*deliveries)
    return list(deliveries)


def _only_urgent(room: int, urgent: int, others: int, turn: int) -> tuple[int, int]:
    """Nothing is kept for what is not urgent."""
    first = min(urgent, room)
    return first, min(others, room - first)


def _pauses_everybody(pauses: Pauses, topic: str, reason: str, *, speakers: Any = ()) -> None:
    pauses.misconfigured(reason)


# -- providers and connections -----------------------------------------------------------------------------------------


def _other_ids(patches: ExitStack) -> None:
    numbers = itertools.count()
    other = lambda event_id, token: delivery_id(event_id, f"{token}{next(numbers)}")  # noqa: E731
    patches.enter_context(patch.object(apns_provider, "delivery_id", other))


def _from_the_future(patches: ExitStack) -> None:
    """Provider tokens are made for half a minute from now."""
    mint = ProviderToken._mint

    def minted(token: ProviderToken) -> None:
        clock = token._wall_clock
        token._wall_clock = lambda: clock() + 30
        mint(token)
        token._wall_clock = clock

    patches.enter_context(patch.object(ProviderToken, "_mint", minted))


_access_header: Final = AccessToken.header


def _until_refused(access: AccessToken) -> bytes | None:
    known = access._header
    return _access_header(access) if known is None or known == access._invalid else known


def _row(module: Any, key: tuple[int, str], like: tuple[int, str]) -> Mutate:
    """One answer is judged as another is."""
    return lambda patches: patches.enter_context(patch.dict(module.TABLE, {key: module.TABLE[like]}))


_consequence: Final = ApnsJudge._consequence


def _no_row(judge: ApnsJudge, request: Any, row: Any, answer: Any, timestamp_ms: int | None) -> Any:
    """One kind of answer cannot be judged. It is tried again, and the exception is in the log alone."""
    if answer.status == 429:
        raise KeyError(answer.reason)
    return _consequence(judge, request, row, answer, timestamp_ms)


async def _division(watchers: Watchers) -> None:
    """A periodic duty fails each time; the others are done."""
    raise ZeroDivisionError


def _no_retry_after(patches: ExitStack) -> None:
    """What a provider asks for in Retry-After is not read."""
    for module in (apns_judging, fcm_judging):
        patches.enter_context(patch.object(module, "retry_after_s", lambda request, now_s: None))


def _at_once(module: Any, key: tuple[int, str]) -> Mutate:
    """After one answer a delivery is tried again at once, also the next times."""
    row = replace(module.TABLE[key], backoff=Backoff(0.001, 0.001))
    return lambda patches: patches.enter_context(patch.dict(module.TABLE, {key: row}))


_settings_changed: Final = Connection._settings_changed


def _first_settings_only(connection: Connection[Any], settings: Any) -> None:
    """A limit of streams that is lowered later is not noticed."""
    limit = connection._limit
    _settings_changed(connection, settings)
    if connection.answered:
        connection._limit = max(limit, connection._limit)


def _no_back_off(dialler: Dialler[Any], why: str) -> None:
    dialler.failures += 1


_ISOLATION: Final = (Invariant.ISOLATION,)
_STUCK: Final = (Invariant.DRAINS, Invariant.ISOLATION)
_DOUBLED: Final = (Invariant.DUPLICATE, Invariant.TRUE)


def _kinds(*names: str) -> frozenset[str]:
    return frozenset(names)


BUGS: Final = (
    Bug("append is answered before its commit", _by(SqliteQueue, "append", _answered_before_its_commit),
        (Invariant.ACCOUNTED,), 20, first=7, troubles=_kinds("crashes"), size=Size.LARGE),
    Bug("leases end while the disk stalls", _by(Database, "longest_wait_s", lambda database: 0.0),
        _DOUBLED, 20, first=36, troubles=_kinds("disk"), size=Size.LARGE),
    Bug("an item is given to two owners", _by(Leases, "grant", _offered_to_two),
        (*_DOUBLED, Invariant.ACCOUNTED), 20,
        troubles=_kinds("provider"), is_added=True),
    Bug("what was parked is not woken", _by(SqliteSchedule, "parked", _not_noted),
        _STUCK, 20, troubles=_kinds("provider")),
    Bug("an open breaker lets no probe through", _by(Pauses, "room", _never_a_probe),
        (*_STUCK, Invariant.DUPLICATE), 20, troubles=_kinds("provider")),
    Bug("a deletion is not remembered", _by(Cancellations, "deleted", _forgotten), (Invariant.SILENT,), 40),
    Bug("lifetimes are not looked at", _without_lifetimes, (Invariant.LIFETIME,), 20, first=2,
        troubles=_kinds("provider")),
    Bug("a dead token is removed although it was registered again",
        _by(dead_tokens._Dead, "token", _dead_whenever_registered), (Invariant.LIVING,), 20, first=3,
        troubles=_kinds("deaths", "devices"), size=Size.LARGE),
    Bug("one bound of memory for all", _global_bound, _ISOLATION, 20, first=2, troubles=_kinds("provider", "network"),
        is_added=True),
    Bug("a wrong topic pauses the whole application", _by(Pauses, "topic_misconfigured", _pauses_everybody),
        _ISOLATION, 20, troubles=_kinds("topics")),
    Bug("a wrong topic of one device pauses its topic",
        _row(apns_answers, (400, "DeviceTokenNotForTopic"), (400, "TopicDisallowed")), _ISOLATION, 40, first=2,
        troubles=_kinds("devices")),
    Bug("a device without its Apple credential pauses the project",
        _row(fcm_answers, (401, "THIRD_PARTY_AUTH_ERROR"), (403, "PERMISSION_DENIED")), _ISOLATION, 40, first=2,
        troubles=_kinds("devices")),
    Bug("a device of another project pauses the default one",
        _row(fcm_answers, (403, "SENDER_ID_MISMATCH"), (403, "PERMISSION_DENIED")), _STUCK, 20, troubles=frozenset()),
    Bug("one device's failures open the breaker", _by(Breaker, "failure", _whoever_it_was), _ISOLATION, 20,
        first=44, troubles=_kinds("devices"), size=Size.LARGE),
    Bug("the apns-id differs from attempt to attempt", _other_ids, (Invariant.DUPLICATE,), 20, first=11,
        troubles=_kinds("provider", "network"), size=Size.LARGE),
    Bug("connections are opened again at once", _by(Dialler, "back_off", _no_back_off), (Invariant.CONNECTIONS,), 60,
        first=11, troubles=_kinds("provider")),
    Bug("a commit that has failed is answered as done", _by(Writes, "run", _refused_and_called_done),
        (Invariant.ACCOUNTED, Invariant.DRAINS), 20, troubles=_kinds("io")),
    Bug("lifetimes are not looked at just before sending", _sent_whenever, (Invariant.LIFETIME,), 20, first=3,
        troubles=_kinds("suspends", "floods")),
    Bug("due times are not moved with a clock that was set back", _by(Claims, "move_with_the_clock", _not_moved),
        (Invariant.DRAINS,), 40, first=5, troubles=_kinds("hours")),
    Bug("provider tokens are made half a minute early", _from_the_future, _STUCK, 20, troubles=frozenset(),
        skew_s=45.0),
    Bug("what is urgent waits where its lane is full", _by(Lane, "_take_places", _no_place),
        (Invariant.URGENT, Invariant.STARVING), 20, first=2,
        troubles=_kinds("floods")),
    Bug("nothing is kept for what is not urgent", _by(lane, "divide", _only_urgent), (Invariant.STARVING,), 20, first=3,
        troubles=_kinds("floods")),
    Bug("a quarantine that is released is purged", _by(SqliteRegistry, "release_quarantine", _purge),
        (Invariant.LIVING, Invariant.ISOLATION), 20, troubles=_kinds("fuse")),
    Bug("a dead letter that is discarded is replayed", _by(SqliteEventLog, "discard", _replay), (Invariant.TRUE,), 20,
        troubles=_kinds("letters", "devices")),
    Bug("access tokens are renewed only when Google refuses them", _by(AccessToken, "header", _until_refused),
        (Invariant.RULES,), 10, troubles=frozenset(), size=Size.DAYS),
    Bug("what has ended is never forgotten", _by(Housekeeping, "prune", _never), (Invariant.RETENTION,), 10,
        troubles=frozenset(), size=Size.DAYS),
    Bug("dead letters are forgotten as early as what was delivered", _forgotten_alike,
        (Invariant.ACCOUNTED, Invariant.RETENTION), 20,
        troubles=_kinds("devices"), size=Size.WEEKS),
    Bug("the key of an hour is dropped while what is parked needs it",
        _by(retiring, "_PARTS", (*retiring._PARTS[:2], *retiring._PARTS[3:])), (*_STUCK, Invariant.ANSWERS), 20,
        troubles=_kinds("applications"), size=Size.DAYS),
    Bug("an answer cannot be judged", _by(ApnsJudge, "_consequence", _no_row), (Invariant.RUNS,), 20,
        troubles=_kinds("devices")),
    Bug("a periodic duty fails each time", _by(Watchers, "_look_at_quarantine", _division), (Invariant.RUNS,), 20,
        troubles=frozenset()),
    Bug("Retry-After is not read", _no_retry_after, (Invariant.RULES,), 20, troubles=_kinds("devices", "provider")),
    Bug("Google's 503 is tried again at once", _at_once(fcm_answers, (503, "UNAVAILABLE")),
        (Invariant.RULES,), 20, troubles=_kinds("devices", "provider"), size=Size.SHORT),
    Bug("Apple's 503 is tried again at once", _at_once(apns_answers, (503, "ServiceUnavailable")),
        (Invariant.RULES,), 20, troubles=_kinds("devices", "provider")),
    Bug("a stream limit that is lowered is not noticed", _by(Connection, "_settings_changed", _first_settings_only),
        (Invariant.RULES,), 20, troubles=_kinds("provider"), size=Size.SHORT),
    Bug("the window has no least", _line(Lane, "ended", "max(self._options.first_in_flight, self._window // 2)",
        "self._window // 2"), _STUCK, 20, troubles=_kinds("provider", "network"), size=Size.SHORT),
    Bug("the window has no bound", _line(Lane, "ended", "min(self._options.in_flight, self._window + healthy)",
        "self._window + healthy"), (Invariant.BOUNDED, Invariant.STARVING), 20, troubles=_kinds("floods")),
    Bug("what is not sent after all keeps its memory", _line(Lane, "empty",
        "self.share.give_back(sum([delivery.size_bytes for delivery in out]))", "pass"), (Invariant.BOUNDED,), 20,
        troubles=_kinds("provider"), size=Size.SHORT),
    Bug("receipts that are written still count", _line(Settling, "_settle",
        "self._finished_bytes -= sum([item.size_bytes for item in batch])", "pass"), (Invariant.BOUNDED,), 20,
        troubles=frozenset()),
    Bug("a duty is due again at once", _line(Duty, "run", "self.due_at = loop.time() + wait_s",
        "self.due_at = loop.time()"), (Invariant.TIME,), 20, troubles=frozenset()),
    Bug("a project's quota stops one device", _line(FcmJudge, "_consequence",
        'Scope.DEVICE if "device" in body.message.lower() else Scope.LANE', "Scope.DEVICE"), (Invariant.RULES,), 20,
        troubles=_kinds("quotas")),
    Bug("sending begins at once after a quota", _line(Ramp, "room", "age_s >= RAMP_S", "age_s >= 0"),
        (Invariant.RULES,), 20, troubles=_kinds("quotas")),
    Bug("a batch loses its last event", _by(Ingest, "_lines", _without_the_last), (Invariant.ANSWERS,), 20,
        troubles=frozenset()),
    Bug("the search gets to know the first of each settlement", _by(Recent, "settled", _every_other),
        (Invariant.FOUND,), 20, troubles=frozenset()),
)  # fmt: skip
BY_NAME: Final = {bug.name: bug for bug in BUGS}
