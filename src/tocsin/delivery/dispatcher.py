"""An event is claimed, its devices are looked up, it is expanded into deliveries, these are sent, and it is settled.

The only place that sees both the store and the providers. It works in batches throughout: one claim, one look-up of
devices, one report of outcomes and one settlement stand for hundreds of deliveries.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct

from tocsin.delivery.cancellations import Cancellations
from tocsin.delivery.claiming import CLAIM_ITEMS, Claiming
from tocsin.delivery.dead_tokens import DeadTokens
from tocsin.delivery.expanding import Expanding, portions
from tocsin.delivery.failure_log import FailureLog
from tocsin.delivery.lane import LaneOptions
from tocsin.delivery.lane_book import LaneBook
from tocsin.delivery.learning import Learning
from tocsin.delivery.metrics import DeliveryMetrics
from tocsin.delivery.outcomes import Outcomes
from tocsin.delivery.receipts import Receipts
from tocsin.delivery.senders import Senders
from tocsin.delivery.sending import Sending
from tocsin.delivery.settling import Settling
from tocsin.delivery.topics import TopicNotes
from tocsin.delivery.tracing import DeliveryTraces
from tocsin.domain.devices import Device
from tocsin.domain.events import UserId
from tocsin.domain.outcomes import Outcome
from tocsin.providers.base import Push, Sender
from tocsin.store.ports import Store, WriteFailure
from tocsin.store.records import (
    CredentialsChanged,
    Item,
    LanesWoken,
    Signal,
    TokenDeleted,
    TokenRegistered,
    TokenRestored,
)

_STORE_RETRY_S: Final = 0.5
_PORTION_DELIVERIES: Final = 1000
"""So many take some 25 ms to expand, render and send."""


class DispatcherOptions(Struct, frozen=True):
    lane: LaneOptions
    marks_kept_s: float
    """How long it is remembered that a token was deleted: longer than anything stays in memory."""


class Dispatcher:
    def __init__(
        self,
        store: Store,
        options: DispatcherOptions,
        metrics: DeliveryMetrics,
        *,
        random: Callable[[], float] = random.random,
        traces: DeliveryTraces | None = None,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._options = options
        self._queue, self._schedule, self._registry = store.queue, store.schedule, store.registry
        self._now_ms = store.now_ms
        self._metrics = metrics
        self._traces = traces
        self._providers = Senders(self.report)
        self._stopping = False
        self._could_send = True
        self._room = asyncio.Event()
        self.lanes = LaneBook(options.lane, loop.time, random)
        self._cancellations = Cancellations(loop.time, options.marks_kept_s)
        self._learning = Learning(store.registry)
        self._topics = TopicNotes(store.registry, self.lanes, loop.time)
        dead_tokens = DeadTokens(store.registry, lambda delivery: self.lanes[delivery.route.lane].fuse)
        self._settling = Settling(store.queue, dead_tokens, self._learning, metrics, self._room, traces)
        self._failures = FailureLog(loop.time)
        self._receipts = Receipts(metrics, self._failures, self._settling.finished)
        self._claiming = Claiming(store.queue, store.schedule, self.lanes, metrics, store.now_ms, self._room)
        self._most_deliveries = max(1, min(_PORTION_DELIVERIES, options.lane.waiting // 8))
        self._expanding = Expanding(self._providers, self._receipts)
        self._sending = Sending(
            self.lanes,
            self._receipts,
            self._cancellations,
            store.now_ms,
            self.may_send,
            self._room,
            self._claiming.wake,
            traces,
        )
        self._outcomes = Outcomes(
            self.lanes,
            self._sending,
            self._receipts,
            dead_tokens,
            self._learning,
            metrics,
            provider_of=self._providers.__getitem__,
            now_ms=store.now_ms,
            random=random,
        )
        store.queue.when_lost(self._lost)
        store.signals.subscribe(self._signalled)

    def use(self, providers: Mapping[str, Sender], in_time_s: float) -> None:
        """The providers, by name. An attempt takes at most `in_time_s`: what is still not sent so long before ownership
        of it ends is not sent."""
        self._providers.update(providers)
        self._expanding.in_time_s = in_time_s
        self._sending.use(self._providers, self.report)

    # -- claim, look up, expand, send, settle --------------------------------------------------------------------------

    async def run(self) -> None:
        """Deliver until `stop` has let everything end."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_claiming())
            tasks.create_task(self._settling.run(self._outcomes.token_removed, self._has_ended))

    async def _keep_claiming(self) -> None:
        while not self._stopping:
            try:
                if self.lanes.are_too_busy() or self._settling.has_too_much() or not self.may_send():
                    await self._claiming.wait_for_room()
                elif items := await self._claiming.claim():
                    await self._deliver(items)
                else:
                    await self._claiming.wait()
            except WriteFailure:
                await asyncio.sleep(_STORE_RETRY_S)

    async def _deliver(self, items: Sequence[Item]) -> None:
        """A portion at a time, so that the loop gets round to everything else in between; what is new and has no room
        any more, as owners have more devices than was to be expected, goes back untouched."""
        devices = await self._look_up(items)
        waiting = portions(items, devices, self._most_deliveries)
        dispatched = 0
        while waiting and not self._stopping:
            if dispatched and self.lanes.are_too_busy():
                new = [item for portion in waiting for item in portion if item.targets is None]
                if new:
                    await self._claiming.give_back(new, dispatched)
                    parked = [item for portion in waiting for item in portion if item.targets is not None]
                    waiting = portions(parked, devices, self._most_deliveries) if parked else []
                    continue
            portion, *waiting = waiting
            self._dispatch(portion, devices)
            dispatched += len(portion)
            if waiting:
                await asyncio.sleep(0)
        if waiting:
            await self._queue.release([item for portion in waiting for item in portion])

    def _dispatch(self, items: Sequence[Item], devices: Mapping[UserId, Sequence[Device]]) -> None:
        """Give every device of every event to its lane, and let the lanes send."""
        now_ms = self._now_ms()
        opened, deliveries = self._expanding.expand(items, devices, now_ms)
        self._settling.opened(opened)
        if self._traces is not None:
            self._traces.claimed(opened, now_ms)
        for of_one_lane in deliveries.values():
            self._sending.give(of_one_lane, now_ms)

    async def _look_up(self, items: Sequence[Item]) -> Mapping[UserId, Sequence[Device]]:
        """The devices of the items' owners, as they are now."""
        try:
            return await self._registry.devices_of(list({item.event.owner: None for item in items}))
        except WriteFailure:
            await self._queue.release(items)
            raise

    # -- what providers call (base.DispatcherPort) -----------------------------------------------------------------

    def report(self, outcomes: list[tuple[Push, Outcome]]) -> None:
        self._outcomes.report(outcomes)
        if not self._settling.has_nothing():
            self._settling.something.set()

    def send_anew(self, pushes: Sequence[Push]) -> None:
        self._sending.send_anew(pushes)

    def withdrawn(self, pushes: Iterable[Push]) -> Sequence[Push]:
        return self._sending.withdrawn(pushes)

    def revoked(self, pushes: Iterable[Push]) -> bool:
        return self._sending.revoked(pushes)

    def may_send(self) -> bool:
        return self._queue.may_send()

    # -- signals of the store ------------------------------------------------------------------------------------------

    def _signalled(self, signal: Signal) -> None:
        match signal:
            case TokenDeleted():
                self._cancellations.deleted(signal.owner, signal.provider, signal.token)
                self._forget(signal)
            case TokenRegistered() | TokenRestored():
                self._cancellations.registered(signal.owner, signal.provider, signal.token)
                self._forget(signal)
            case CredentialsChanged():
                self.lanes.forget_topics(signal.provider)
            case LanesWoken():
                for lane in self.lanes.known(signal.lanes):
                    lane.resume()
                    self._sending.go_on(lane, self._now_ms())
            case _:
                pass  # not about what is in memory here

    def _forget(self, signal: TokenDeleted | TokenRegistered | TokenRestored) -> None:
        """What this device has paused for its own sake goes on."""
        for lane in self.lanes.forget(signal.provider, signal.owner, signal.token):
            self._sending.go_on(lane, self._now_ms())

    def _lost(self, items: Sequence[Item]) -> None:
        self._settling.lost(list(items))
        self._sending.lost(self._options.marks_kept_s)

    # -- now and then, and at the end ----------------------------------------------------------------------------------

    async def look_after(self) -> None:
        """Called about once a second: lanes that may try again, lifetimes that are over, ownership that would end."""
        now_ms, parked = self._now_ms(), await self._schedule.due()
        for lane in self.lanes:
            lane.look_after(parked.get(lane.name))
            self._sending.go_on(lane, now_ms)
        could_send, self._could_send = self._could_send, self.may_send()
        if self._could_send and not could_send:
            self._sending.resume()
        self._cancellations.forget_old()
        self._failures.write_counted()
        await self._settling.extend(self._loop.time() + self._expanding.in_time_s)
        await self._learning.write_noted()
        await self._topics.write()
        while expired := await self._schedule.expire(CLAIM_ITEMS):
            await self._deliver(expired)

    async def stop(self, drain_s: float) -> None:
        """No new work; what is on the wire gets `drain_s` to end, then it goes back to the queue."""
        self._stopping = self._sending.stopping = True
        self._claiming.stop()
        with suppress(WriteFailure):
            # A clock that was set back just now is noticed by this: after the next start nobody could know of it.
            await self._schedule.due()
        now_ms = self._now_ms()
        for lane in self.lanes:
            for delivery in lane.empty():
                self._receipts.park(delivery, now_ms)
        deadline = self._loop.time() + drain_s
        while self._receipts.out and self._loop.time() < deadline:
            await self._claiming.wait_for_room()
        self._settling.something.set()
        self._failures.write_counted(all=True)
        with suppress(WriteFailure):
            await self._learning.write_noted()
            await self._topics.write()

    def _has_ended(self) -> bool:
        return self._stopping and not self._receipts.out and self._settling.has_nothing()
