"""Seeded bugs of what several nodes do with each other: mutations of real lines; see `tests.simulator.bugs`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Final
from unittest.mock import patch

from tests.simulator.bugs import Bug
from tests.simulator.judge import Invariant
from tests.simulator.mutations import line_replaced as line
from tests.simulator.mutations import replaced as by
from tests.simulator.nodes.plan import NodesPlan, make_plan
from tocsin.store.postgres import settle_sql
from tocsin.store.postgres.fresh import FreshEvents, Stream
from tocsin.store.postgres.ownership import Ownership
from tocsin.store.postgres.queue import PostgresQueue
from tocsin.store.postgres.session import Session
from tocsin.store.postgres.signals import PostgresSignals


class NodesBug(Bug, frozen=True):
    def plan(self, seed: int) -> NodesPlan:
        return make_plan(seed, troubles=self.troubles)


# -- ownership and takeover --------------------------------------------------------------------------------------------


async def _whoever_had_them(ownership: Ownership, logs: Collection[int]) -> dict[int, int]:
    """A node that comes back takes for its own what it can lock: it does not compare the epochs."""
    return {log: held.epoch for log, held in ownership.held.items()}


async def _at_once(ownership: Ownership) -> None:
    """Who takes a log does not wait for whoever had it."""


_look: Final = FreshEvents.look


async def _from_now_on(fresh: FreshEvents, streams: Sequence[int]) -> list[Stream]:
    """A takeover reads only what comes from now on."""
    found = await _look(fresh, streams)
    for stream in found:
        stream.xid = stream.until - 1
    return found


async def _all_anew(fresh: FreshEvents, streams: Sequence[int]) -> list[Stream]:
    """A takeover does not leave out what the node before has settled."""
    found = await _look(fresh, streams)
    for stream in found:
        stream.until = 0
    return found


# -- reading -----------------------------------------------------------------------------------------------------------

_taken: Final = FreshEvents._taken


class _InOrder:
    """A row that counts as one below the oldest transaction that runs."""

    def __init__(self, row: Any) -> None:
        self._row = row

    def __iter__(self) -> Any:
        *row, _, found = self._row
        return iter((*row, True, found))

    def __getitem__(self, name: str) -> Any:
        return self._row[name]


def _in_any_order(fresh: FreshEvents, streams: Any, rows: Sequence[Any], *rest: Any) -> Any:
    """What is there is read, whether or not something before it may still commit."""
    return _taken(fresh, streams, [_InOrder(row) for row in rows], *rest)


# -- freshness and signals ---------------------------------------------------------------------------------------------


def _without_a_heartbeat(queue: PostgresQueue) -> bool:
    return True


async def _unheard(signals: PostgresSignals, node: int = 0, beat: float = 0.0) -> None:
    """What other nodes signal is not read."""


@asynccontextmanager
async def _nothing_kept_off(_: Any) -> AsyncIterator[None]:
    yield


async def _none_of_them(connection: Any, leases: Any) -> set[Any]:
    """Whether a commit whose answer was lost has settled something is not looked at."""
    return set()


def _lock_lost(patches: ExitStack) -> None:
    """What is out is settled although its log was lost, by a node whose session has another node's place."""
    patches.enter_context(patch.object(PostgresQueue, "_refuse_lost", lambda queue, leases: None))
    patches.enter_context(patch.object(PostgresQueue, "_is_lost", lambda queue, lease: False))


_TWICE: Final = (Invariant.ALONE, Invariant.ORDER, Invariant.DUPLICATE, Invariant.TRUE, Invariant.RUNS)
_LEFT: Final = (Invariant.DRAINS, Invariant.ACCOUNTED, Invariant.ISOLATION)


def _kinds(*names: str) -> frozenset[str]:
    return frozenset(names)


BUGS: Final = (
    NodesBug("a node that comes back does not compare epochs", by(Ownership, "_epochs", _whoever_had_them),
        (*_TWICE, *_LEFT), 20, first=20, troubles=_kinds("suspends", "cuts")),
    NodesBug("what is out of a lost log is settled", _lock_lost, (Invariant.OWNED, *_TWICE), 20,
        troubles=_kinds("suspends", "cuts")),
    NodesBug("logs are taken without waiting for the node before", by(Ownership, "_wait", _at_once),
        _TWICE, 40, troubles=_kinds("cuts")),
    NodesBug("a takeover reads only what is new", by(FreshEvents, "look", _from_now_on), _LEFT, 20,
        troubles=_kinds("crashes")),
    NodesBug("a takeover reads what is settled", by(FreshEvents, "look", _all_anew), _TWICE, 20,
        troubles=_kinds("crashes")),
    NodesBug("what commits late is passed over", by(FreshEvents, "_taken", _in_any_order), _LEFT, 40,
        troubles=frozenset()),
    NodesBug("a node sends without a heartbeat", by(PostgresQueue, "may_send", _without_a_heartbeat),
        (Invariant.SILENT, *_TWICE), 40, troubles=_kinds("cuts", "suspends")),
    NodesBug("stalled nodes keep their logs",
        line(Ownership, "end_stalled_nodes", "if not stalled:", "if stalled or True:"),
        (Invariant.TAKEN_OVER, *_LEFT), 20, troubles=_kinds("suspends")),
    NodesBug("the signals of other nodes are not read", by(PostgresSignals, "notice", _unheard),
        (Invariant.SILENT, *_LEFT), 40, troubles=_kinds("operator")),
    NodesBug("a new session is used before it is taken up", by(Session, "taken_up", _nothing_kept_off),
        (Invariant.OWNED, *_TWICE), 20, troubles=_kinds("cuts", "rolling", "drops", "ended")),
    NodesBug("what a lost answer has settled is settled again", by(settle_sql, "on_record", _none_of_them), _TWICE, 20,
        troubles=_kinds("swallowed")),
)  # fmt: skip
BY_NAME: Final = {bug.name: bug for bug in BUGS}
