"""Seeded bugs: mutations of real lines, with which the simulator shows that it can fail.

Each is patched in while a seed runs, names the invariants that find it, and is found within a stated number of seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from tests.simulator import mutations as m
from tests.simulator.judge import Invariant
from tests.simulator.mutations import Mutate, judged_like, line_replaced, replaced, tried_at_once
from tests.simulator.plan import Plan, Size, make_plan
from tocsin.delivery import dead_tokens, lane
from tocsin.delivery.breaker import Breaker
from tocsin.delivery.cancellations import Cancellations
from tocsin.delivery.lane import Lane
from tocsin.delivery.lane_book import LaneBook
from tocsin.delivery.pauses import Pauses
from tocsin.delivery.ramp import Ramp
from tocsin.delivery.settling import Settling
from tocsin.http2.connection import Connection
from tocsin.http2.dialler import Dialler
from tocsin.ingest.batch import Ingest
from tocsin.providers.apns import answers as apns_answers
from tocsin.providers.apns.judging import ApnsJudge
from tocsin.providers.apns.provider_token import ProviderToken
from tocsin.providers.fcm import answers as fcm_answers
from tocsin.providers.fcm.access_token import AccessToken
from tocsin.providers.fcm.judging import FcmJudge
from tocsin.service.periodic import Duty
from tocsin.service.watchers import Watchers
from tocsin.store.claims import Claims
from tocsin.store.leases import Leases
from tocsin.store.sqlite import retiring
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.event_log import SqliteEventLog
from tocsin.store.sqlite.housekeeping import Housekeeping
from tocsin.store.sqlite.queue import SqliteQueue
from tocsin.store.sqlite.registry import SqliteRegistry
from tocsin.store.sqlite.schedule import SqliteSchedule
from tocsin.store.sqlite.search_feed import Recent
from tocsin.store.sqlite.transactions import Writes


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
    rows: tuple[str, ...] = ()
    """Of the plans: only these rows are drawn."""
    is_added: bool = False
    """No line of tocsin is another: something that goes wrong is added to what it does."""

    def plan(self, seed: int) -> Plan:
        plan = make_plan(seed, troubles=self.troubles, skew_s=self.skew_s, size=self.size)
        return replace(plan, rows=self.rows) if self.rows else plan


@contextmanager
def seeded(bug: Bug | None) -> Iterator[None]:
    with ExitStack() as patches:
        if bug is not None:
            bug.mutate(patches)
        yield


_ISOLATION: Final = (Invariant.ISOLATION,)
_STUCK: Final = (Invariant.DRAINS, Invariant.ISOLATION)
_DOUBLED: Final = (Invariant.DUPLICATE, Invariant.TRUE)


def _kinds(*names: str) -> frozenset[str]:
    return frozenset(names)


BUGS: Final = (
    Bug("append is answered before its commit", replaced(SqliteQueue, "append", m.answered_before_its_commit),
        (Invariant.ACCOUNTED,), 20, first=7, troubles=_kinds("crashes"), size=Size.LARGE),
    Bug("leases end while the disk stalls", replaced(Database, "longest_wait_s", lambda database: 0.0),
        _DOUBLED, 20, first=36, troubles=_kinds("disk"), size=Size.LARGE),
    Bug("an item is given to two owners", replaced(Leases, "grant", m.offered_to_two),
        (*_DOUBLED, Invariant.ACCOUNTED, Invariant.RUNS), 20,
        troubles=_kinds("provider"), is_added=True),
    Bug("what was parked is not woken", replaced(SqliteSchedule, "parked", m.not_noted),
        _STUCK, 20, troubles=_kinds("provider")),
    Bug("an open breaker lets no probe through", replaced(Pauses, "room", m.never_a_probe),
        (*_STUCK, Invariant.DUPLICATE), 20, troubles=_kinds("provider"), size=Size.SHORT),
    Bug("a deletion is not remembered", replaced(Cancellations, "deleted", m.forgotten), (Invariant.SILENT,), 40),
    Bug("lifetimes are not looked at", m.without_lifetimes, (Invariant.LIFETIME,), 20, first=2,
        troubles=_kinds("provider")),
    Bug("a dead token is removed although it was registered again",
        replaced(dead_tokens._Dead, "token", m.dead_whenever_registered), (Invariant.LIVING,), 20, first=3,
        troubles=_kinds("deaths", "devices"), size=Size.LARGE),
    Bug("one bound of memory for all", m.global_bound, _ISOLATION, 20, first=2, troubles=_kinds("provider", "network"),
        is_added=True),
    Bug("a wrong topic pauses the whole application", replaced(Pauses, "topic_misconfigured", m.pauses_everybody),
        _ISOLATION, 20, troubles=_kinds("topics")),
    Bug("a wrong topic of one device pauses its topic",
        judged_like(apns_answers, (400, "DeviceTokenNotForTopic"), (400, "TopicDisallowed")), _ISOLATION, 40, first=2,
        troubles=_kinds("devices"), size=Size.LARGE),
    Bug("a device without its Apple credential pauses the project",
        judged_like(fcm_answers, (401, "THIRD_PARTY_AUTH_ERROR"), (403, "PERMISSION_DENIED")), _ISOLATION, 40, first=2,
        troubles=_kinds("devices")),
    Bug("a device of another project pauses the default one",
        judged_like(fcm_answers, (403, "SENDER_ID_MISMATCH"), (403, "PERMISSION_DENIED")), _STUCK, 20,
        troubles=frozenset()),
    Bug("one device's failures open the breaker", replaced(Breaker, "failure", m.whoever_it_was), _ISOLATION, 20,
        first=44, troubles=_kinds("devices"), size=Size.LARGE),
    Bug("the apns-id differs from attempt to attempt", m.other_ids, (Invariant.DUPLICATE,), 20, first=11,
        troubles=_kinds("provider", "network"), size=Size.LARGE),
    Bug("connections are opened again at once", replaced(Dialler, "back_off", m.no_back_off),
        (Invariant.CONNECTIONS,), 20, troubles=_kinds("provider"), size=Size.SHORT,
        rows=("apns GOAWAY to every request", "fcm GOAWAY to every request", "apns 503 Shutdown")),
    Bug("a commit that has failed is answered as done", replaced(Writes, "run", m.refused_and_called_done),
        (Invariant.ACCOUNTED, Invariant.DRAINS), 20, troubles=_kinds("io")),
    Bug("lifetimes are not looked at just before sending", m.sent_whenever, (Invariant.LIFETIME,), 20, first=3,
        troubles=_kinds("suspends", "floods")),
    Bug("due times are not moved with a clock that was set back", replaced(Claims, "move_with_the_clock", m.not_moved),
        (Invariant.DRAINS,), 40, first=5, troubles=_kinds("hours")),
    Bug("provider tokens are made half a minute early", line_replaced(ProviderToken, "_regular",
        "int(self._wall_clock()) // ISSUED_EVERY_S * ISSUED_EVERY_S", "int(self._wall_clock()) + 30"),
        _STUCK, 20, troubles=frozenset(), skew_s=45.0),
    Bug("what is urgent waits where its lane is full", m.urgent_waits,
        (Invariant.URGENT, Invariant.STARVING), 20, first=2,
        troubles=_kinds("floods")),
    Bug("what made way for another waits until its lane is not full",
        replaced(LaneBook, "room_for_the_fewer", m.no_room), (Invariant.STARVING,), 20, first=21,
        troubles=_kinds("floods")),
    Bug("nothing is kept for what is not urgent", replaced(lane, "divide", m.only_urgent), (Invariant.STARVING,),
        20, first=3,
        troubles=_kinds("floods")),
    Bug("a quarantine that is released is purged", replaced(SqliteRegistry, "release_quarantine", m.purge),
        (Invariant.LIVING, Invariant.ISOLATION), 20, troubles=_kinds("fuse")),
    Bug("a dead letter that is discarded is replayed", replaced(SqliteEventLog, "discard", m.replay),
        (Invariant.TRUE,), 20,
        troubles=_kinds("letters", "devices")),
    Bug("access tokens are renewed only when Google refuses them", replaced(AccessToken, "header", m.until_refused),
        (Invariant.RULES,), 10, troubles=frozenset(), size=Size.DAYS),
    Bug("what has ended is never forgotten", replaced(Housekeeping, "prune", m.never_pruned),
        (Invariant.RETENTION,), 10,
        troubles=frozenset(), size=Size.DAYS),
    Bug("dead letters are forgotten as early as what was delivered", m.forgotten_alike,
        (Invariant.ACCOUNTED, Invariant.RETENTION), 20,
        troubles=_kinds("devices"), size=Size.WEEKS),
    Bug("the key of an hour is dropped while what is parked needs it",
        replaced(retiring, "_PARTS", (*retiring._PARTS[:2], *retiring._PARTS[3:])), (*_STUCK, Invariant.ANSWERS), 20,
        troubles=_kinds("applications"), size=Size.DAYS),
    Bug("an answer cannot be judged", replaced(ApnsJudge, "_consequence", m.no_row), (Invariant.RUNS,), 20,
        troubles=_kinds("devices")),
    Bug("a periodic duty fails each time", replaced(Watchers, "_look_at_quarantine", m.division), (Invariant.RUNS,), 20,
        troubles=frozenset()),
    Bug("Retry-After is not read", m.no_retry_after, (Invariant.RULES,), 20, troubles=_kinds("devices", "provider")),
    Bug("Google's 503 is tried again at once", tried_at_once(fcm_answers, (503, "UNAVAILABLE")),
        (Invariant.RULES,), 20, troubles=_kinds("devices", "provider"), size=Size.SHORT, rows=("fcm 503 UNAVAILABLE",)),
    Bug("Apple's 503 is tried again at once", tried_at_once(apns_answers, (503, "ServiceUnavailable")),
        (Invariant.RULES,), 20, troubles=_kinds("provider"), size=Size.SHORT,
        rows=("apns 503 ServiceUnavailable", "apns 500 InternalServerError")),
    Bug("a stream limit that is lowered is not noticed", replaced(Connection, "_settings_changed",
        m.first_settings_only),
        (Invariant.RULES,), 20, troubles=_kinds("provider"), size=Size.SHORT),
    Bug("the window has no least", line_replaced(Lane, "ended", "max(self._options.first_in_flight, self._window // 2)",
        "self._window // 2"), _STUCK, 20, troubles=_kinds("provider", "network"), size=Size.SHORT),
    Bug("the window has no bound", line_replaced(Lane, "ended", "min(self._options.in_flight, self._window + healthy)",
        "self._window + healthy"), (Invariant.BOUNDED, Invariant.STARVING), 20, troubles=_kinds("floods")),
    Bug("what is not sent after all keeps its memory", line_replaced(Lane, "empty",
        "self.share.give_back(sum([delivery.size_bytes for delivery in out]))", "pass"), (Invariant.BOUNDED,), 20,
        troubles=_kinds("provider"), size=Size.SHORT),
    Bug("receipts that are written still count", line_replaced(Settling, "_settle",
        "self._finished_bytes -= sum([item.size_bytes for item in batch])", "pass"), (Invariant.BOUNDED,), 20,
        troubles=frozenset()),
    Bug("a duty is due again at once", line_replaced(Duty, "run", "self.due_at = loop.time() + wait_s",
        "self.due_at = loop.time()"), (Invariant.TIME,), 20, troubles=frozenset()),
    Bug("a project's quota stops one device", line_replaced(FcmJudge, "_consequence",
        'Scope.DEVICE if "device" in body.message.lower() else Scope.LANE', "Scope.DEVICE"), (Invariant.RULES,), 20,
        first=5, troubles=_kinds("quotas"), size=Size.SHORT),
    Bug("sending begins at once after a quota", line_replaced(Ramp, "room", "age_s >= RAMP_S", "age_s >= 0"),
        (Invariant.RULES,), 20, first=5, troubles=_kinds("quotas"), size=Size.SHORT),
    Bug("a batch loses its last event", replaced(Ingest, "_lines", m.without_the_last), (Invariant.ANSWERS,), 20,
        troubles=frozenset()),
    Bug("the search gets to know the first of each settlement", replaced(Recent, "settled", m.every_other),
        (Invariant.FOUND,), 20, troubles=frozenset()),
)  # fmt: skip
BY_NAME: Final = {bug.name: bug for bug in BUGS}
