"""Claim -> look up -> render -> send -> settle.

The only place that sees both the store and the providers. It works in batches throughout: one claim, one look-up of
devices, one report of outcomes and one settlement stand for hundreds of deliveries.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import structlog
from msgspec import Struct

from tocsin.delivery.dead_tokens import DeadTokens
from tocsin.delivery.fuse import Fuse
from tocsin.delivery.lanes import Lane, LaneOptions
from tocsin.delivery.lessons import REACHED_NOTED_EVERY_MS, Lessons
from tocsin.delivery.opened import Opened
from tocsin.delivery.retry import MISCONFIGURED, delay_s, retry_at_ms
from tocsin.domain.devices import Device
from tocsin.domain.events import UserId
from tocsin.domain.lanes import LaneStatus
from tocsin.domain.outcomes import (
    Answer,
    Delivered,
    Misconfigured,
    Outcome,
    Refused,
    RetryLater,
    Scope,
    TokenDead,
    Withdrawn,
)
from tocsin.providers.answers import SLOWLY
from tocsin.providers.base import Provider, Push
from tocsin.store.ports import (
    Attempt,
    EventQueue,
    Item,
    Registry,
    Result,
    StoreUnavailable,
)
from tocsin.telemetry import Metrics

log = structlog.get_logger(__name__)

_CLAIM_ITEMS: Final = 500
_SETTLE_ITEMS: Final = 2000
_MOST_UNSETTLED: Final = 8_000
_MOST_HELD_BYTES: Final = 64 * 1024 * 1024
_IDLE_S: Final = 1.0
_LEAST_IDLE_S: Final = 0.005
_STORE_RETRY_S: Final = 0.5
_TOPIC_PAUSE_MS: Final = 60_000
_EXPIRED: Final = "lifetime over"
_DELETED: Final = "token deleted"
_CANNOT_BE_SENT: Final = RetryLater(Answer(0, "the push cannot be made"), SLOWLY)


class DispatcherOptions(Struct, frozen=True):
    lane: LaneOptions
    lease_s: float
    in_time_s: float
    """A delivery still waiting this long before its lease ends goes back to the queue instead of out."""


class Dispatcher:
    def __init__(
        self,
        queue: EventQueue,
        registry: Registry,
        options: DispatcherOptions,
        metrics: Metrics,
        *,
        wall_clock: Callable[[], float] = time.time,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._queue = queue
        self._registry = registry
        self._options = options
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._dice = dice
        self._loop = asyncio.get_running_loop()
        self._providers: Mapping[str, Provider] = {}
        self._lanes: dict[str, Lane] = {}
        self._fuses: dict[str, Fuse] = {}
        self._finished: list[Opened] = []
        self._dead = DeadTokens(registry, lambda push: self._lanes[push.route.lane].fuse)
        self._lessons = Lessons(registry)
        self._to_settle = asyncio.Event()
        self._room = asyncio.Event()
        self._cancelled: dict[tuple[str, str], float] = {}
        self._stopping = False
        self._out = 0
        self._held_bytes = 0
        """The content of all events that are claimed and not settled."""
        self._counters: dict[tuple[str, str, str], Callable[[float], None]] = {}

    def use(self, providers: Mapping[str, Provider]) -> None:
        """The providers, by the system of the devices that they reach."""
        self._providers = providers

    # -- the line ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Deliver until `stop` has let everything end."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_claiming())
            tasks.create_task(self._keep_settling())

    async def _keep_claiming(self) -> None:
        while not self._stopping:
            try:
                if self._must_wait():
                    await self._wait_for_room()
                elif items := await self._claim():
                    await self._deliver(items)
                else:
                    await self._queue.wait(self._idle_s(await self._queue.due_lanes()))
            except StoreUnavailable:
                await asyncio.sleep(_STORE_RETRY_S)

    async def _claim(self) -> list[Item]:
        due = await self._queue.due_lanes()
        lanes = {name: self._lane(name).room for name in due}
        items = await self._queue.claim(_CLAIM_ITEMS, lanes)
        self._metrics.claimed.inc(len(items))
        return items

    async def _deliver(self, items: Sequence[Item]) -> None:
        devices = await self._look_up(items)
        if self._stopping:
            self._queue.release(items)
        else:
            self._dispatch(items, devices)

    async def _look_up(self, items: Sequence[Item]) -> dict[UserId, list[Device]]:
        try:
            return await self._registry.devices_of(list({item.event.owner: None for item in items}))
        except StoreUnavailable:
            self._queue.release(items)
            raise

    def _dispatch(self, items: Iterable[Item], devices: Mapping[UserId, list[Device]]) -> None:
        """Give every device of every event to its lane, and let the lanes send."""
        now_ms = int(self._wall_clock() * 1000)
        give_back_at = self._loop.time() + self._options.lease_s - self._options.in_time_s
        offers: dict[str, list[Push]] = {}
        for item in items:
            opened = Opened(item, give_back_at)
            self._held_bytes += len(item.event.body)
            own = devices.get(item.event.owner, ())
            if item.targets is not None:
                by_key = {device.key: device for device in own}
                for target in item.targets:
                    if target not in by_key:
                        self._note(opened, target, item.lane or "", Result.CANCELLED, now_ms, reason=_DELETED)
                own = [by_key[target] for target in item.targets if target in by_key]
            if item.event.expires_ms <= now_ms:
                for device in own:
                    self._note(opened, device.key, item.lane or "", Result.EXPIRED, now_ms, reason=_EXPIRED)
                own = ()
            if not own:
                self._finish(opened)
                continue
            opened.left = len(own)
            self._out += len(own)
            for device in own:
                route = self._providers[device.system].route(device)
                push = Push(opened.rendering, device, route, opened, item.tries)
                if route.lane in offers:
                    offers[route.lane].append(push)
                else:
                    offers[route.lane] = [push]
        for name, pushes in offers.items():
            lane = self._lane(name)
            self._offer(lane, pushes, now_ms)
            self._pump(lane)

    def _offer(self, lane: Lane, pushes: Sequence[Push], now_ms: int) -> None:
        """Give deliveries to their lane; what it does not take waits in the queue until it may."""
        rejected = lane.offer(pushes)
        if not rejected:
            return
        due_ms = now_ms
        if (chance := lane.next_chance()) is not None:
            due_ms += int((chance - self._loop.time()) * 1000)
        elif not lane.full:
            due_ms += _TOPIC_PAUSE_MS  # only a paused topic is turned away by a lane that has room
        for push in rejected:
            self._park(push, due_ms)

    def _pump(self, lane: Lane) -> None:
        """Send what the lane lets go, each to its provider; what may no longer be sent ends here."""
        taken = lane.take()
        if not taken:
            return
        now_ms, now = int(self._wall_clock() * 1000), self._loop.time()
        sends: list[Push] = []
        for push in taken:
            opened: Opened = push.item
            if opened.item.event.expires_ms <= now_ms:
                lane.unsent()
                self._end(lane, push, Result.EXPIRED, now_ms, reason=_EXPIRED)
            elif self._cancelled and (push.device.owner, push.device.key) in self._cancelled:
                lane.unsent()
                self._end(lane, push, Result.CANCELLED, now_ms, reason=_DELETED)
            elif now > opened.give_back_at or self._stopping:
                lane.unsent()
                self._park(push, now_ms)
            else:
                sends.append(push)
        if sends:
            # One lane has one provider: its name begins with it.
            try:
                self._providers[sends[0].device.system].send(sends)
            except Exception:
                # A mistake of ours, before anything was sent: these are tried again slowly, and the line goes on.
                log.exception("cannot be sent", lane=lane.name)
                failed: list[tuple[Push, Outcome]] = [(push, _CANNOT_BE_SENT) for push in sends]
                self._loop.call_soon(self.report, failed)
        elif lane.waiting:
            self._loop.call_soon(self._pump, lane)  # none of those was sent: the next ones' turn
        self._room.set()

    # -- outcomes ------------------------------------------------------------------------------------------------------

    def report(self, outcomes: list[tuple[Push, Outcome]]) -> None:
        """Providers hand in what their answers mean; every push comes back exactly once."""
        now_ms = int(self._wall_clock() * 1000)
        by_lane: dict[str, list[tuple[Push, Outcome]]] = {}
        for pair in outcomes:
            name = pair[0].route.lane
            if name in by_lane:
                by_lane[name].append(pair)
            else:
                by_lane[name] = [pair]
        for name, own in by_lane.items():
            lane = self._lanes[name]
            failed = shared = dead = unsent = delivered = 0
            for _, outcome in own:
                if type(outcome) is RetryLater and outcome.fault:
                    failed += 1
                    shared += outcome.shared_fault
                elif type(outcome) is TokenDead:
                    dead += 1
                elif type(outcome) is Withdrawn:
                    unsent += 1
            healthy = len(own) - failed - unsent
            lane.ended(len(own), healthy=healthy, faults=failed - shared + bool(shared), dead=dead)
            for push, outcome in own:
                if type(outcome) is Delivered:
                    delivered += 1
                    self._delivered(lane, push, outcome, now_ms)
                else:
                    self._not_delivered(lane, push, outcome, now_ms)
            if delivered:
                self._count(name, Result.DELIVERED, "", delivered)
            self._offer(lane, lane.turn_out(), now_ms)
            self._pump(lane)

    def _delivered(self, lane: Lane, push: Push, outcome: Delivered, now_ms: int) -> None:
        device = push.device
        if lane.is_misconfigured or lane.has_paused_topics:
            lane.delivered(device.topic)
        opened: Opened = push.item
        opened.attempts.append(
            Attempt(now_ms, device.key, lane.name, "delivered", outcome.answer.status, "", outcome.provider_id)
        )
        if push.tried:
            self._lessons.route(push, now_ms)
        elif device.last_success_ms is None or now_ms - device.last_success_ms > REACHED_NOTED_EVERY_MS:
            self._lessons.reached(device, now_ms)
        self._one_less(opened)

    def _not_delivered(self, lane: Lane, push: Push, outcome: Outcome, now_ms: int) -> None:
        answer = outcome.answer
        match outcome:
            case RetryLater(next_route=route) if route is not None:
                self._count(lane.name, Result.RETRY, answer.reason)
                self._try_route(lane, push, outcome, now_ms)
            case RetryLater():
                if outcome.pause_s is not None and outcome.scope is Scope.LANE:
                    for name in outcome.pause_lanes or (lane.name,):
                        self._lane(name).pause(outcome.pause_s, answer.reason)
                self._again(lane, push, outcome, retry_at_ms(outcome, push.tries, now_ms, self._dice()), now_ms)
            case Misconfigured():
                lane.misconfigured(answer.reason, outcome.topic)
                self._again(lane, push, outcome, now_ms + int(delay_s(MISCONFIGURED, push.tries, 0.0) * 1000), now_ms)
            case Refused():
                if outcome.our_bug:
                    log.error("refused by the provider", lane=lane.name, status=answer.status, reason=answer.reason)
                self._end(lane, push, Result.REFUSED, now_ms, answer.status, answer.reason)
            case TokenDead():
                self._dead.add(push, outcome)
                self._to_settle.set()
            case Withdrawn():
                expired = push.item.item.event.expires_ms <= now_ms
                result, why = (Result.EXPIRED, _EXPIRED) if expired else (Result.CANCELLED, _DELETED)
                self._end(lane, push, result, now_ms, reason=why)
            case Delivered():
                self._delivered(lane, push, outcome, now_ms)

    def _try_route(self, lane: Lane, push: Push, outcome: RetryLater, now_ms: int) -> None:
        """The provider knows another way to the same device: try it at once, on that way's lane."""
        assert outcome.next_route is not None
        answer, opened = outcome.answer, push.item
        opened.attempts.append(
            Attempt(now_ms, push.device.key, lane.name, Result.RETRY, answer.status, answer.reason, "", now_ms)
        )
        push.tried = (*push.tried, push.route)
        push.route = outcome.next_route
        other = self._lane(push.route.lane)
        self._offer(other, [push], now_ms)
        self._loop.call_soon(self._pump, other)

    def _again(self, lane: Lane, push: Push, outcome: Outcome, due_ms: int, now_ms: int) -> None:
        opened: Opened = push.item
        result = Result.MISCONFIGURED if isinstance(outcome, Misconfigured) else Result.RETRY
        due_ms = min(due_ms, opened.item.event.expires_ms)
        answer, key = outcome.answer, push.device.key
        opened.attempts.append(Attempt(now_ms, key, lane.name, result, answer.status, answer.reason, "", due_ms))
        self._count(lane.name, result, _label(answer.status, answer.reason))
        push.tries += 1
        self._park(push, due_ms)

    def _end(self, lane: Lane, push: Push, result: Result, now_ms: int, status: int = 0, reason: str = "") -> None:
        self._note(push.item, push.device.key, lane.name, result, now_ms, status, reason)
        self._one_less(push.item)

    def _note(
        self, opened: Opened, key: str, lane: str, result: Result, now_ms: int, status: int = 0, reason: str = ""
    ) -> None:
        opened.attempts.append(Attempt(now_ms, key, lane, result, status, reason))
        self._count(lane, result, _label(status, reason) if status else "")

    def _park(self, push: Push, due_ms: int) -> None:
        """What waits for its lane or its time waits in the queue, not here."""
        opened: Opened = push.item
        opened.park(push.route.lane, due_ms, push.tries, push.device.key)
        self._one_less(opened)

    def _one_less(self, opened: Opened) -> None:
        opened.left -= 1
        self._out -= 1
        if not opened.left:
            self._finish(opened)

    def _finish(self, opened: Opened) -> None:
        self._finished.append(opened)
        self._to_settle.set()

    # -- settling ------------------------------------------------------------------------------------------------------

    async def _keep_settling(self) -> None:
        while not (self._stopping and not self._out and not self._finished and not self._dead):
            try:
                async with asyncio.timeout(_IDLE_S):
                    await self._to_settle.wait()
            except TimeoutError:
                continue
            self._to_settle.clear()
            try:
                await self._settle()
            except StoreUnavailable:
                self._to_settle.set()
                await asyncio.sleep(_STORE_RETRY_S)

    async def _settle(self) -> None:
        """One turn: dead tokens go, what was learned is noted, items are settled. What fails is kept for the next."""
        if self._dead:
            await self._dead.remove(self._bury)
        await self._lessons.write_routes()
        if self._finished:
            batch = self._finished[:_SETTLE_ITEMS]
            held = await self._queue.settle([opened.settlement() for opened in batch])
            del self._finished[: len(batch)]
            self._held_bytes -= sum([len(opened.item.event.body) for opened in batch])
            self._metrics.settled.inc(len(batch))
            if lost := held.count(False):
                self._metrics.lost_leases.inc(lost)
                log.warning("settled too late: leases had ended", items=lost)
        if self._finished or self._dead:
            self._to_settle.set()
        self._room.set()

    def _bury(self, push: Push, outcome: TokenDead, registered_again: bool) -> None:
        lane, now_ms, answer = self._lanes[push.route.lane], int(self._wall_clock() * 1000), outcome.answer
        if registered_again:
            # At once the first time; where the provider says so again, not in a tight loop.
            wait_s = MISCONFIGURED.first_s if push.tries else 0.0
            self._again(lane, push, outcome, now_ms + int(wait_s * 1000), now_ms)
        else:
            self._metrics.tokens_removed.labels(lane.name).inc()
            self._end(lane, push, Result.TOKEN_DEAD, now_ms, answer.status, answer.reason)

    # -- room, idleness, stop ------------------------------------------------------------------------------------------

    def _lane(self, name: str) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:
            fuse = self._fuse(name.rpartition(":")[2])
            lane = self._lanes[name] = Lane(name, self._options.lane, fuse, self._loop.time, self._dice)
        return lane

    def _fuse(self, application: str) -> Fuse:
        return self._fuses.setdefault(application, Fuse(self._loop.time))

    def _must_wait(self) -> bool:
        """Full means back-pressure: a busy lane makes the queue wait, a slow one only parks its own."""
        if len(self._finished) > _MOST_UNSETTLED or self._held_bytes > _MOST_HELD_BYTES:
            return True
        return any(lane.busy and not lane.slow for lane in self._lanes.values())

    async def _wait_for_room(self) -> None:
        self._room.clear()
        try:
            async with asyncio.timeout(0.05):
                await self._room.wait()
        except TimeoutError:
            pass

    def _idle_s(self, due: Mapping[str, int]) -> float:
        """How long nothing can happen by itself: until something parked is due, or its lane may try again."""
        wait_s, now = _IDLE_S, self._wall_clock()
        for name, due_ms in due.items():
            lane = self._lane(name)
            if lane.room:
                wait_s = min(wait_s, due_ms / 1000 - now)
            elif (chance := lane.next_chance()) is not None:
                wait_s = min(wait_s, chance - self._loop.time())
        return max(_LEAST_IDLE_S, wait_s)

    async def look_after(self) -> None:
        """Called about once a second: lanes that may try again, lifetimes that are over, marks that are old."""
        now, now_ms = self._loop.time(), int(self._wall_clock() * 1000)
        for lane in self._lanes.values():
            self._offer(lane, lane.turn_out(), now_ms)
            self._pump(lane)
        self._cancelled = {mark: until for mark, until in self._cancelled.items() if until > now}
        await self._lessons.write_reached()
        while expired := await self._queue.claim_expired(_CLAIM_ITEMS):
            await self._deliver(expired)

    async def stop(self, drain_s: float) -> None:
        """No new work; what is on the wire gets `drain_s` to end, then it goes back to the queue."""
        self._stopping = True
        now_ms = int(self._wall_clock() * 1000)
        for lane in self._lanes.values():
            for push in lane.empty():
                self._park(push, now_ms)
        deadline = self._loop.time() + drain_s
        while self._out and self._loop.time() < deadline:
            self._to_settle.set()
            await self._wait_for_room()
        with suppress(StoreUnavailable):
            await self._lessons.write_reached()

    # -- what the API asks ---------------------------------------------------------------------------------------------

    def cancel(self, owner: str, system: str, token: str) -> None:
        """A token was deleted: what already waits for it in memory must not go out."""
        self._cancelled[owner, f"{system}:{token}"] = self._loop.time() + 2 * self._options.lease_s

    def withdrawn(self, pushes: Iterable[Push]) -> list[Push]:
        """Those that must not go out any more: their token was deleted, or their lifetime ended, while they waited."""
        now_ms, cancelled = int(self._wall_clock() * 1000), self._cancelled
        if not cancelled:
            return [push for push in pushes if push.rendering.event.expires_ms <= now_ms]
        return [
            push
            for push in pushes
            if push.rendering.event.expires_ms <= now_ms or (push.device.owner, push.device.key) in cancelled
        ]

    def registered(self, owner: str, system: str, token: str) -> None:
        """A token was registered (again): an earlier deletion no longer counts."""
        if self._cancelled:
            self._cancelled.pop((owner, f"{system}:{token}"), None)

    async def resume(self, lanes: Iterable[str]) -> None:
        """Credentials were replaced: their lanes may send again at once, and what waited for it goes out."""
        names = list(lanes)
        for name in names:
            if name in self._lanes:
                self._lanes[name].resume()
                self._pump(self._lanes[name])
        await self._queue.wake(names)

    def quarantined(self, applications: Collection[str]) -> None:
        """Whose tokens are in quarantine now: a fuse is whole again once the operator has released or purged them."""
        for application in applications:
            self._fuse(application).hold()
        for application, fuse in self._fuses.items():
            if application not in applications and fuse.may_be_reset():
                log.info("fuse reset", application=application)
                fuse.reset()

    @property
    def quarantining(self) -> bool:
        return any(fuse.blown for fuse in self._fuses.values())

    def lanes(self) -> list[LaneStatus]:
        return [lane.status() for lane in self._lanes.values()]

    def _count(self, lane: str, result: Result, reason: str, amount: int = 1) -> None:
        key = (lane, result.value, reason)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._metrics.attempts.labels(*key).inc
        counter(amount)


def _label(status: int, reason: str) -> str:
    """A reason for a metric: free text of our own (a link's error) would be a label without end."""
    return reason if status else "link"
