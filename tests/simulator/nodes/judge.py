"""What must hold for all nodes together, on top of the invariants of one."""

from __future__ import annotations

from typing import Any, Final

from tests.simulator.judge import Invariant, Judge
from tests.simulator.model import Accepted, Standing
from tests.simulator.model_store.database import Changed, ModelDatabase
from tests.simulator.model_store.rows import Row
from tests.simulator.model_store.transactions import Transaction
from tests.simulator.troubles import Trouble
from tocsin.domain.devices import DeviceToken
from tocsin.domain.events import URGENT, UserId
from tocsin.store.postgres.options import FRESH_S
from tocsin.store.postgres.ownership import LOG_LOCKS
from tocsin.store.postgres.places import log_of
from tocsin.store.records import TokenDeleted

SILENT_S: Final = FRESH_S
"""So long after its deletion was answered a token may still be given to a connection, by a node that has not read of
it."""
TAKEN_OVER_BOUND_S: Final = 20.0
"""So long an event may wait that was accepted while something is wrong with one node, and with nothing else."""
TOLERATED_MS: Final = 500
"""By so much a node's notion of the database's clock may be late: it was asked over a way that takes some time."""
_NEXT_HEARTBEAT_S: Final = 1.5
_UNKNOWN_MS: Final = 10**9
_ON_THE_WIRE_S: Final = 2.0
"""So long a push takes at most from a connection to the provider, where the way is well."""


class NodeTrouble(Trouble):
    """Something is wrong with one node, and nothing with the others."""


class NodesJudge(Judge):
    """Also watches what is committed to the database."""

    silent_s = SILENT_S
    goes_on = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.clock_set_s = float("-inf")
        """When the clock was set last (loop time). Nodes know of it by their next heartbeat."""
        self._database: ModelDatabase
        self._epochs: dict[int, int] = {}
        """Of each log the epoch in which something was sent last by who had the log then."""
        self._places: dict[str, tuple[int, int, int]] = {}
        """Where each event is."""
        self._settled: set[tuple[int, int, int]] = set()
        """The places of events of which something is on record."""
        self._first_sent: dict[tuple[str, str], float] = {}
        """Event and token, and when it was first given to a connection."""
        self._newest_sent: dict[tuple[str, str], tuple[float, str]] = {}
        """Of an owner's urgent events to a token: the one that was accepted last of those that were sent."""

    @property
    def tolerated_ms(self) -> int:  # type: ignore[override]
        return _UNKNOWN_MS if self._clocks_differ else TOLERATED_MS

    @property
    def _clocks_differ(self) -> bool:
        return self._loop.time() < self.clock_set_s + _NEXT_HEARTBEAT_S

    def watch(self, database: ModelDatabase) -> None:
        self._database = database
        database.watchers.append(self._committed)

    def accepted(self, accepted: Accepted) -> None:
        felt = self._troubles()
        if self._clocks_differ:
            return  # one node's time may be beyond a lifetime that another has given
        if felt and all(isinstance(trouble, NodeTrouble) for trouble in felt):
            for one in accepted.targets:
                if not one.phone.dead:
                    self._expect(accepted, one, TAKEN_OVER_BOUND_S, Invariant.TAKEN_OVER)
        else:
            super().accepted(accepted)

    # -- what is committed ---------------------------------------------------------------------------------------------

    def _committed(self, transaction: Transaction, made: Changed, taken: Changed) -> None:
        database = transaction.database
        for table, row in made:
            if table is database.settlement:
                self._settled.add((row.stream, row.xid, row.seq))
                self._check_holder(transaction, row)
            elif table is database.event and row.id is not None:
                self._places[row.id] = (row.stream, row.xid, row.seq)
        for table, row in taken:
            if table is database.device and not table.with_key((row.owner, row.provider, row.token)):
                self.signalled(TokenDeleted(UserId(row.owner), row.provider, DeviceToken(row.token)))

    def _check_holder(self, transaction: Transaction, row: Row) -> None:
        log, database = row.stream >> 1, transaction.database
        if all(backend is not transaction.backend for key, backend in database.locks.in_space(LOG_LOCKS) if key == log):
            self.violated(
                Invariant.OWNED,
                f"{transaction.backend.application} settles event {(row.stream, row.xid, row.seq)} of log {log}, "
                "which its session does not hold",
            )

    # -- what is sent, what arrives ------------------------------------------------------------------------------------

    def sent_by(self, node: int, requests: list[Any]) -> None:
        """A node, by its number in the database, has given these to a connection just now."""
        self.sent(requests)
        now_s = self._loop.time()
        for request in requests:
            push = getattr(request, "push", None)
            if push is not None:
                self._check_alone(node, push.device.owner)
                self._check_order(push.content.event.id, push.device.owner, push.device.token, now_s)

    def _check_alone(self, node: int, owner: UserId) -> None:
        """Who lost a log may still send for a moment, and nobody else does meanwhile."""
        log = log_of(owner)
        row = next(filter(self._database.is_committed, self._database.log.with_key(log)))
        if row.node == node:
            self._epochs[log] = row.epoch
        elif self._epochs.get(log) == row.epoch:
            self.violated(
                Invariant.ALONE, f"node {node} sends for {owner} of log {log}, and so does node {row.node} by now"
            )

    def _check_order(self, event_id: str, owner: str, token: str, now_s: float) -> None:
        """Of an owner's urgent events the one that was accepted first is sent first: a call is not ended before it has
        begun. What is sent again may come later, and what was parked. So may what was accepted before the device was
        registered (the last time): whoever takes a log over sends it to those that are registered by then."""
        accepted = self._model.accepted.get(event_id)
        if accepted is None or accepted.event.message not in URGENT or (event_id, token) in self._first_sent:
            return
        if not any(one.phone.token == token and one.since_s <= accepted.asked_s for one in accepted.targets):
            return
        if self._places[event_id] in self._settled:
            return
        self._first_sent[event_id, token] = now_s
        newest = self._newest_sent.get((owner, token))
        if newest is not None and accepted.answered_s < newest[0]:
            self.violated(
                Invariant.ORDER, f"event {event_id} is sent to {token[-6:]} after {newest[1]}, which came after it"
            )
        if newest is None or accepted.asked_s > newest[0]:
            self._newest_sent[owner, token] = (accepted.asked_s, event_id)

    def arrives(self, provider: str, token: bytes, id: bytes, body: bytes) -> None:
        super().arrives(provider, token, id, body)
        name, now_s = token.decode("latin-1"), self._loop.time()
        for one in self._model.registered.values():
            late_s = now_s - one.gone_s
            if one.phone.token == name and one.owner.encode() in body:
                is_deleted = one.standing is Standing.GONE and one.was_deleted
                if is_deleted and late_s > SILENT_S + _ON_THE_WIRE_S:
                    what = f"a push arrives at {one.phone!r} {late_s:.1f} s after its deletion"
                    self.violated(Invariant.SILENT, what)
