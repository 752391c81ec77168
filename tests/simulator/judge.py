"""The invariants that are checked all the time, each with a name. The first violation ends the simulation.

What can be judged only when everything has ended is in `accounts.py`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from heapq import heappop, heappush
from typing import Any, Final

from msgspec import Struct

from tests.simulator.clocks import Clocks
from tests.simulator.model import Accepted, Arrival, Model, Registered, Standing
from tests.simulator.network import Dial
from tests.simulator.phones import Phone
from tests.simulator.trace import Trace
from tests.simulator.troubles import Flooded, Trouble
from tests.simulator.waits import Waits
from tocsin.domain.events import URGENT
from tocsin.store.records import Signal, TokenDeleted

ISOLATION_BOUND_S: Final = 5.0
"""So long a delivery may take, from the moment in which its event is accepted until the provider has the push, where
nothing is wrong with its own device, topic, application or provider. It holds for every plan: with a hundred tokens an
owner, bodies of 14 KB, a round trip of 150 ms, an answer of 600 ms, commits of 30 ms, and probes out."""
FLOOD_BOUND_S: Final = 25.0
"""So long an urgent event may take while others flood its lane, and one that is not urgent while urgent ones do: some
fifty that are in the lane's memory, at some ten a second of a narrow lane, of which it has a quarter; and some seconds
for the attempts that are out when it comes (seed 1508 of 10,000 took 20.9 s)."""
APPEND_BOUND_S: Final = 5.0
"""So long a producer waits for its answer while the disk is well."""
_FAILURES_RECOVER_S: Final = 3 * 60.0
_AFTER_FAILURES_S: Final = 6 * 60.0 + 5
"""So long after troubles that are felt for three minutes at most what they have held up has arrived: a delivery waits
for five minutes at most after failures, and its lane for one more."""
_AFTER_LONG_S: Final = 16 * 60.0 + 5
"""The same after other troubles: a quarter of an hour, and the lane."""
_MOST_BEFORE_SETTINGS: Final = 1
"""As long as Apple has not said how many streams there may be, there is one."""
_MOST_USELESS_DIALS: Final = 40
_DIALS_WITHIN_S: Final = 10.0
_MOST_TASKS: Final = 300
_MOST_HELD: Final = {
    "deliveries": 40_000,
    "bytes of deliveries": 65 * 1024 * 1024,
    "items": 20_000,
    "items whose receipts wait": 10_000,
    "bytes of those": 40 * 1024 * 1024,
    "requests": 40_000,
}
"""Of what is under way: the bounds of its parts, and somewhat more, for what was taken when there was room for it."""
_COMPLAINT: Final = "DeviceTokenNotForTopic"
_COMPLAINED_FOR_S: Final = (7 * 24 - 6) * 3600.0
"""After a week of complaints a device goes into quarantine. Tocsin's clock may be wrong by five hours."""
_EVENT_ID: Final = re.compile(rb"e0000000-0000-4000-8000-[0-9]{12}")


class Invariant(StrEnum):
    ACCOUNTED = "accepted is accounted for"
    DUPLICATE = "a duplicate has a cause and the same id"
    SILENT = "a deleted token is silent"
    LIVING = "a living token is never removed"
    ISOLATION = "nobody waits for another's device, topic, application or provider"
    URGENT = "urgent events go before the others"
    STARVING = "the others never starve"
    LIFETIME = "no delivery after its lifetime"
    BOUNDED = "memory and queues are bounded"
    CONNECTIONS = "connections are not opened in a tight loop"
    DRAINS = "when faults end, everything drains"
    TRUE = "every push belongs to an event and a device of its owner, and every receipt is true"
    TIME = "nothing goes on for ever while no time passes"
    FOUND = "the search finds what is on record"
    ANSWERS = "the API answers as it is documented"
    RETENTION = "what has ended is kept for as long as is meant, and no longer"
    RULES = "the providers' rules are kept"
    RUNS = "nothing in tocsin ends with an unexpected exception"
    OWNED = "nothing is settled by a node that does not hold its log"
    ALONE = "one node delivers for an owner at a time"
    TAKEN_OVER = "what one node cannot deliver others do in time"
    ORDER = "an owner's urgent events are sent in the order in which they were accepted"


class Violation(Exception):  # noqa: N818 (it says what is so)
    def __init__(self, invariant: Invariant, what: str) -> None:
        super().__init__(invariant, what)  # so it can be sent to another process
        self.invariant = invariant

    def __str__(self) -> str:
        return ": ".join(self.args)


class Expectation(Struct, eq=False):
    """A delivery that nothing stands in the way of."""

    event_id: str
    one: Registered
    since_s: float
    bound_s: float
    invariant: Invariant
    expires_ms: int
    void: bool = False
    again_s: float = 0.0
    """So long after the last trouble that it may feel is over it has arrived: by what it has met meanwhile."""


class Judge:
    silent_s = 0.0
    """So long after its deletion was answered a token may still be sent to by another node than has answered."""
    goes_on = True
    """What was held up is expected again when its trouble is over."""
    tolerated_ms = 0
    """By so much tocsin's clock may be behind the one that decides about lifetimes."""

    def __init__(self, model: Model, clocks: Clocks, trace: Trace, troubles: Callable[[], list[Trouble]]) -> None:
        self._model = model
        self._clocks = clocks
        self._trace = trace
        self._troubles = troubles
        self._loop = asyncio.get_running_loop()
        self._expected: dict[tuple[str, str], Expectation] = {}
        self._held_up: dict[tuple[str, str], Expectation] = {}
        """Those that a trouble affects."""
        self._felt: list[Trouble] = []
        """The troubles that were felt when this was looked at last."""
        self._armed = 0
        self._deadlines: list[tuple[float, int, Expectation]] = []
        """By when, in which order they came, and what: a heap."""
        self.waits = Waits(model, lambda what: self.violated(Invariant.RULES, what))
        self.violation: Violation | None = None
        self.ended = asyncio.Event()
        self.arrived = 0
        self.expectations = 0
        self.longest_wait_s = 0.0

    def violated(self, invariant: Invariant, what: str) -> None:
        if self.violation is None:
            self.violation = Violation(invariant, what)
            self._trace("VIOLATION", str(self.violation))
            self.ended.set()

    # -- nobody waits for another --------------------------------------------------------------------------------------

    def accepted(self, accepted: Accepted) -> None:
        felt = self._troubles()
        troubles = [trouble for trouble in felt if trouble.floods is None]
        bound_s, invariant = ISOLATION_BOUND_S, Invariant.ISOLATION
        floods = {trouble.floods for trouble in felt if trouble.floods is not None}
        if floods:
            own = Flooded.URGENT if accepted.event.message in URGENT else Flooded.BULK
            if own in floods:
                return
            bound_s = FLOOD_BOUND_S
            invariant = Invariant.URGENT if own is Flooded.URGENT else Invariant.STARVING
        if accepted.event.expires_ms <= self._clocks.now_ms() + int(bound_s * 1000):
            return  # the clock was set while it was handed in: it may expire
        for one in accepted.targets:
            if not one.phone.dead:
                affecting = [trouble for trouble in troubles if trouble.affects(one.phone)]
                self._expect(accepted, one, bound_s, invariant, affecting)

    def _expect(
        self,
        accepted: Accepted,
        one: Registered,
        bound_s: float,
        invariant: Invariant,
        troubles: Sequence[Trouble] = (),
    ) -> None:
        """`troubles`: what it may wait for."""
        key = (accepted.event.id, one.phone.token)
        if key in self._model.arrivals:
            return
        expectation = Expectation(
            accepted.event.id, one, self._loop.time(), bound_s, invariant, accepted.event.expires_ms
        )
        if troubles:
            self._hold_up(key, expectation, troubles)
        else:
            self.expectations += 1
            self._arm(key, expectation)

    def _arm(self, key: tuple[str, str], expectation: Expectation) -> None:
        self._expected[key] = expectation
        self._armed += 1
        heappush(self._deadlines, (expectation.since_s + expectation.bound_s, self._armed, expectation))

    def trouble_began(self, trouble: Trouble) -> None:
        """Whom it affects may wait from now on, until it is over."""
        for key, expectation in [*self._expected.items(), *self._held_up.items()]:
            if trouble.affects(expectation.one.phone):
                self._expected.pop(key, None)
                self._hold_up(key, expectation, [trouble])

    def phone_changed(self, phone: Phone) -> None:
        """It died, or somebody registers or deletes it: what is on its way to it may end otherwise."""
        self._drop(lambda expectation: expectation.one.phone is phone)

    def lifetimes_end(self) -> None:
        """Tocsin's clock is wrong: what has outlived its lifetime by that clock may be settled as expired."""
        now_ms = self._clocks.now_ms()
        self._drop(lambda expectation: expectation.expires_ms <= now_ms)

    def _drop(self, which: Callable[[Expectation], bool]) -> None:
        for expectations in (self._expected, self._held_up):
            for key, expectation in list(expectations.items()):
                if which(expectation):
                    expectation.void = True
                    del expectations[key]

    def _hold_up(self, key: tuple[str, str], expectation: Expectation, troubles: Sequence[Trouble]) -> None:
        """All of `troubles` affect it from now on."""
        expectation.void = True
        if self.goes_on and not any(trouble.refuses or trouble.kills for trouble in troubles):
            # What is refused has its end, and what goes into quarantine is brought back when somebody notices.
            recovery_s = max(trouble.recovery_s for trouble in troubles)
            again_s = _AFTER_FAILURES_S if recovery_s <= _FAILURES_RECOVER_S else _AFTER_LONG_S
            expectation.again_s = max(expectation.again_s, again_s)
            self._held_up[key] = expectation
        else:
            self._held_up.pop(key, None)

    def _go_on(self) -> None:
        """What no trouble affects any more arrives: when it is due again at the latest."""
        felt = [trouble for trouble in self._troubles() if trouble.floods is None]
        if felt == self._felt:
            return
        self._felt = felt
        now_ms = self._clocks.now_ms()
        for key, held_up in list(self._held_up.items()):
            if any(trouble.affects(held_up.one.phone) for trouble in felt):
                continue
            del self._held_up[key]
            if held_up.expires_ms > now_ms + int(held_up.again_s * 1000):
                again = Expectation(
                    held_up.event_id,
                    held_up.one,
                    self._loop.time(),
                    held_up.again_s,
                    Invariant.DRAINS,
                    held_up.expires_ms,
                    again_s=held_up.again_s,
                )
                self._arm(key, again)

    def check_deadlines(self) -> None:
        now_s = self._loop.time()
        self._go_on()
        while self._deadlines and self._deadlines[0][0] < now_s:
            _, _, expectation = heappop(self._deadlines)
            if expectation.void:
                continue
            self._expected.pop((expectation.event_id, expectation.one.phone.token), None)
            others = "; ".join(f"{trouble.name} for {trouble.whom}" for trouble in self._troubles()) or "nothing at all"
            waited_s = self._loop.time() - expectation.since_s
            self.violated(
                expectation.invariant,
                f"event {expectation.event_id} has waited {waited_s:.1f} s for {expectation.one.phone!r}, with which "
                f"nothing is wrong, and has not arrived. What is wrong with others: {others}",
            )

    # -- what is sent, what arrives ------------------------------------------------------------------------------------

    def sent(self, requests: list[Any]) -> None:
        """These were given to a connection just now."""
        self.waits.sent(requests)
        now_ms = self._clocks.now_ms()
        for request in requests:
            push = getattr(request, "push", None)
            if push is None:
                continue
            event, device = push.content.event, push.device
            if event.expires_ms <= now_ms - self.tolerated_ms:
                self.violated(Invariant.LIFETIME, f"event {event.id} is sent {now_ms - event.expires_ms} ms late")
            if event.id in self._model.discarded:
                self.violated(Invariant.TRUE, f"event {event.id} is sent, and was discarded before")
            one = self._model.registered.get((device.owner, device.key))
            if one is None:
                self.violated(Invariant.TRUE, f"event {event.id} is sent to a device that its owner never registered")
            elif one.standing is Standing.GONE and one.was_deleted:
                late_s = self._loop.time() - one.gone_s
                if late_s >= self.silent_s:
                    self.violated(
                        Invariant.SILENT,
                        f"event {event.id} is sent to {one.phone!r}, {late_s:.3f} s after its deletion",
                    )

    def given(self, requests: int, in_flight: int, allowed: int | None) -> None:
        """So many requests were given to a connection, which has so many in flight now; `allowed` is what its peer has
        asked for, None where it has not yet."""
        most = _MOST_BEFORE_SETTINGS if allowed is None else allowed
        if requests and in_flight > most:
            self.violated(Invariant.RULES, f"{in_flight} requests are in flight on a connection that allows {most}")

    def arrives(self, provider: str, token: bytes, id: bytes, body: bytes) -> None:
        """A provider has accepted a push."""
        found = _EVENT_ID.search(body)
        event_id, name = (found[0].decode() if found else ""), token.decode("latin-1")
        accepted = self._model.accepted.get(event_id)
        now_s = self._loop.time()
        self.arrived += 1
        key = (event_id, name)
        arrivals = self._model.arrivals.setdefault(key, [])
        arrivals.append(Arrival(now_s, id))
        if provider == "apns" and id != arrivals[0].id:
            self.violated(Invariant.DUPLICATE, f"event {event_id} came again with another apns-id")
        self._held_up.pop(key, None)
        expectation = self._expected.pop(key, None)
        if expectation is not None:
            expectation.void = True
            if expectation.invariant is Invariant.ISOLATION:
                self.longest_wait_s = max(self.longest_wait_s, now_s - expectation.since_s)
        if accepted is not None and not any(
            one.phone.token == name for one in self._model.of_owner(accepted.event.owner)
        ):
            self.violated(Invariant.TRUE, f"event {event_id} came to a phone that its owner never registered")
        self._trace("arrives", f"{event_id} at {provider} {name[-6:]}{' again' if len(arrivals) > 1 else ''}")

    # -- devices -------------------------------------------------------------------------------------------------------

    def signalled(self, signal: Signal) -> None:
        if not isinstance(signal, TokenDeleted):
            return
        one = self._model.registered.get((signal.owner, f"{signal.provider}:{signal.token}"))
        if one is None or one.standing is not Standing.REGISTERED:
            return  # its user has asked for it, or it was gone
        one.is_unfit = self._was_complained_of(one)
        if one.is_unfit or any(trouble.kills and trouble.affects(one.phone) for trouble in self._troubles()):
            one.standing, one.was_deleted, one.falsely_dead = Standing.GONE, False, True
            self.phone_changed(one.phone)
            self._trace("removed", f"{one.phone!r} of {one.owner}, which lives")
            return
        dead_s = one.phone.dead_from_s
        if dead_s is None or dead_s < one.since_s:
            self.violated(Invariant.LIVING, f"{one.phone!r} of {one.owner} was removed, and no answer said it is dead")
        one.standing, one.was_deleted, one.gone_s = Standing.GONE, False, self._loop.time()
        self._trace("removed", f"{one.phone!r} of {one.owner}")

    def _was_complained_of(self, one: Registered) -> bool:
        """Whether its provider has said for a week that it is not for its topic, and took no push for it meanwhile; it
        need not say so any more."""
        model = self._model
        own = [(id, one.phone.token) for id, accepted in model.accepted.items() if accepted.event.owner == one.owner]
        reached_s = max((model.arrivals[key][-1].at_s for key in own if key in model.arrivals), default=0.0)
        from_s = max(reached_s, one.there_from_s)
        said_s = [
            answer.answered_s
            for key in own
            for answer in model.refusals.get(key, ())
            if answer.reason == _COMPLAINT and answer.answered_s > from_s
        ]
        return bool(said_s) and max(said_s) - min(said_s) > _COMPLAINED_FOR_S

    # -- bounds --------------------------------------------------------------------------------------------------------

    def check_bounds(self, *, tasks: int, lanes: list[Any], in_flight: int, waiting: int, connections: int) -> None:
        if tasks > _MOST_TASKS:
            self.violated(Invariant.BOUNDED, f"{tasks} tasks are alive")
        for lane in lanes:
            if lane.in_flight > in_flight or lane.waiting > waiting or lane.in_flight < 0:
                self.violated(
                    Invariant.BOUNDED, f"lane {lane.name} has {lane.in_flight} on the wire and {lane.waiting} waiting"
                )
        if connections > 64:
            self.violated(Invariant.BOUNDED, f"{connections} connections are open")

    def check_memory(self, held: dict[str, int], *, nothing_waits: bool) -> None:
        """`held`: how much is held in memory of what is under way, by what that is. Where nothing waits any more,
        nothing is held: what is not given back would fill the memory in time."""
        for what, count in held.items():
            if count < 0 or count > _MOST_HELD[what] or (count and nothing_waits):
                still = ", and nothing waits any more" if nothing_waits else ""
                self.violated(Invariant.BOUNDED, f"{count} {what} are held in memory{still}: {held}")

    def check_dials(self, dials: dict[int, list[Dial]]) -> None:
        since_s = self._loop.time() - _DIALS_WITHIN_S
        for port, recent in dials.items():
            recent[:] = [dial for dial in recent if dial.at_s >= since_s]
            useless = sum(not dial.was_of_use for dial in recent)
            if useless > _MOST_USELESS_DIALS:
                self.violated(
                    Invariant.CONNECTIONS,
                    f"port {port} was dialled {useless} times within {_DIALS_WITHIN_S:g} s for connections of no use",
                )
