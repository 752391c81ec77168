"""What happens now and then beside delivery: credentials that change, quarantines, certificates that end, figures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Final

import structlog

from tocsin import __version__
from tocsin.delivery.dispatcher import Dispatcher
from tocsin.domain.cluster import oldest_ms, others, unserved_since_ms
from tocsin.domain.credentials import Credential
from tocsin.domain.nodes import NodeFigures, NodeStatus, host_and_process
from tocsin.providers.base import CredentialError
from tocsin.providers.configured import Providers
from tocsin.service.complaints import quarantine_complaining
from tocsin.service.periodic import Duty
from tocsin.settings import Settings
from tocsin.store.counted import Counted
from tocsin.store.ports import Store
from tocsin.store.records import CredentialsChanged, QuarantineChanged, Retention, Signal
from tocsin.telemetry import Metrics

log = structlog.get_logger(__name__)

_IN_USE: Final = "credentials in use: "
_LOOK_AFTER_EVERY_S: Final = 1.0
_RETRY_S: Final = 1.0
_DAY_S: Final = 24 * 3600.0
_WARN_CERTIFICATE_S: Final = 30 * _DAY_S
_MEASURE_EVERY_S: Final = 5.0
_PRUNE_EVERY_S: Final = 10.0
_COMPLAINTS_EVERY_S: Final = 3600.0
_PRUNE_AGAIN_S: Final = 0.2
_FILL_EVERY_S: Final = 0.5
_FILL_FOR_S: Final = 0.2
_FILL_AGAIN_S: Final = 0.01


class Watchers:
    """The service's periodic duties. Signals of the store have some of them done at once."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        providers: Providers,
        dispatcher: Dispatcher,
        metrics: Metrics,
        problems: Callable[[], list[str]],
        *,
        node: str | None = None,
        delivers: bool = True,
        figures: Callable[[], NodeFigures] | None = None,
    ) -> None:
        """`node`: what this process is called; its host's name and its number where none is given. `delivers`: whether
        it delivers, and not the others alone. `figures`: what it counts, to be published with its status."""
        self._retention = Retention(
            events_s=settings.store.retention.total_seconds(),
            dead_letters_s=settings.store.dead_letter_retention.total_seconds(),
            removals_s=settings.store.history.total_seconds(),
            audit_s=settings.audit.retention.total_seconds(),
        )
        self._store = store
        self._providers = providers
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._problems = problems
        self._node = node or host_and_process()
        self._delivers = delivers
        self._figures = figures
        self.waiting = 0
        """How many events wait at all nodes."""
        self._oldest_ms: int | None = None
        self._is_served = True
        """Whether some node delivers, as it was found last."""
        self._unserved = Counted(store.queue.whole_backlog)
        self._changed: set[str] = set()
        """Providers whose credentials have changed and were not taken over yet."""
        self._anything_quarantined = False
        self._to_wake: set[str] = set()
        """Lanes whose credential was replaced, until they were told."""
        self._to_note: dict[str, int] = {}
        """By provider: the credentials that are in use (`_in_use`), to be noted once those lanes were told."""
        self._has_started = False
        self._taking_over = asyncio.Lock()
        self._credentials = Duty("credentials", _DAY_S, self._take_over_changed)
        # What a server before this one has put into quarantine is still there, and its fuse is blown.
        self._quarantine = Duty("quarantine", _DAY_S, self._look_at_quarantine, first_s=0.0)
        self.duties = [
            self._credentials,
            self._quarantine,
            Duty("certificates", _DAY_S, self._look_at_certificates),
            Duty("delivery", _LOOK_AFTER_EVERY_S, self._look_after_delivery),
            Duty("status", _LOOK_AFTER_EVERY_S, self._publish_status),
            Duty("measures", _MEASURE_EVERY_S, self._measure),
            Duty("pruning", _PRUNE_EVERY_S, self._prune),
            Duty("complaints", _COMPLAINTS_EVERY_S, self._look_at_complaints, first_s=0.0),
            Duty("search index", _FILL_EVERY_S, self._fill),
        ]
        store.signals.subscribe(self._signalled)

    async def configure(self) -> None:
        """Take over every provider's credentials as they are now; lanes with a new one may send again.

        At the start all are new to this process. What waits is then left waiting where they are those that were in use
        before: a provider may have asked for that time.

        Raises:
            StoreUnavailable: they cannot be read.
        """
        self._changed.update(self._providers)
        await self._take_over_changed()
        self._has_started = True
        await self._take_over_topics()
        await self._look_at_certificates()
        if self._changed:
            self._credentials.now()

    def _signalled(self, signal: Signal) -> None:
        match signal:
            case CredentialsChanged():
                self._changed.add(signal.provider)
                self._credentials.now()
            case QuarantineChanged():
                self._quarantine.now()
            case _:
                pass

    async def take_over(self) -> None:
        """Returns when what was changed of credentials before is in use, or cannot be used.

        Raises:
            StoreUnavailable: the lanes that waited for it could not be told.
        """
        await self._take_over_changed()

    async def _take_over_changed(self) -> float | None:
        """Returns in how many seconds to try again what did not succeed."""
        # One at a time: who waits for a change finds it in use, also where another call has taken it.
        async with self._taking_over:
            return await self._take_over_in_turn()

    async def _take_over_in_turn(self) -> float | None:
        failed = False
        for name in sorted(self._changed & self._providers.keys()):
            self._changed.discard(name)
            try:
                credentials = await self._store.credentials.of(name)
                in_use = _in_use(credentials)
                is_new = self._has_started or await self._store.positions.get(_IN_USE + name) != in_use
                lanes = self._providers[name].configure(credentials)
                if is_new:
                    self._to_wake |= lanes
                    self._to_note[name] = in_use
            except CredentialError as error:
                log.error("credential cannot be used", provider=name, error=str(error))
            except Exception:
                self._changed.add(name)
                log.exception("credentials cannot be taken over", provider=name)
                failed = True
        if self._to_wake:
            # Kept until it has succeeded: the providers will not call these changed a second time.
            await self._store.schedule.wake(sorted(self._to_wake))
            self._to_wake.clear()
            await self._look_at_certificates()
        for name, in_use in list(self._to_note.items()):
            await self._store.positions.set(_IN_USE + name, in_use)
            del self._to_note[name]
        return _RETRY_S if failed else None

    async def _take_over_topics(self) -> None:
        """Which topics are right is known from before the start, as far as the credential is still the same."""
        changed_ms = {
            (name, credential.account): credential.changed_ms
            for name in self._providers
            for credential in await self._store.credentials.of(name)
        }
        reached = await self._store.registry.topics()
        self._dispatcher.lanes.topics_are_right(
            one for one in reached if one.at_ms > changed_ms.get((one.provider, one.account), one.at_ms)
        )

    async def _look_at_quarantine(self) -> None:
        held = dict.fromkeys(await self._store.registry.quarantined_accounts(by_fuse=True))
        self._dispatcher.lanes.quarantined(held)
        self._anything_quarantined = bool(held)

    async def _look_at_complaints(self) -> None:
        await quarantine_complaining(self._store.registry)

    async def _look_at_certificates(self) -> None:
        now_s = self._store.now_ms() / 1000
        for provider in self._providers.values():
            for account in provider.status():
                if account.expires_s is None:
                    continue
                left_s = account.expires_s - now_s
                if left_s < _WARN_CERTIFICATE_S:
                    log.warning("certificate ends soon", application=account.account, days=int(left_s // _DAY_S))

    async def _look_after_delivery(self) -> None:
        await self._dispatcher.look_after()
        # A fuse that held nothing back is whole again by itself, after a while: no signal tells of it.
        if self._dispatcher.lanes.any_fuse_blown and not self._anything_quarantined:
            self._quarantine.now()

    async def _prune(self) -> float | None:
        """Forget what is old enough: in small steps, for as long as there is more."""
        return _PRUNE_AGAIN_S if await self._store.prune(self._retention) else None

    async def _fill(self) -> float | None:
        """Bring the index of the search up to date, with room for searches in between."""
        return _FILL_AGAIN_S if await self._store.search.fill(_FILL_FOR_S) else None

    async def _publish_status(self) -> None:
        backlog = await self._store.queue.backlog()
        if self._is_served:
            self._waits(backlog.events, backlog.size_bytes)
        now_ms = self._store.now_ms()
        fuses = self._dispatcher.lanes.fuse_counts(now_ms)
        held = self._store.queue.held().events
        await self._store.publish(
            NodeStatus(
                self._node,
                __version__,
                now_ms,
                self._problems(),
                self._dispatcher.lanes.statuses(),
                fuses,
                figures=None if self._figures is None else self._figures(),
                delivers=self._delivers,
                backlog_events=held,
                # It may be settled since it was looked for.
                oldest_ms=self._oldest_ms if held else None,
            )
        )
        if fuses:
            nodes = await self._store.nodes()
            counts = [count for node in nodes if node.node != self._node for count in node.fuses]
            self._dispatcher.lanes.counted_elsewhere(counts, self._store.now_ms())

    async def _measure(self) -> None:
        """What has to be read from the store to be known."""
        metrics, store = self._metrics, self._store
        self._oldest_ms = await store.queue.oldest_ms()
        nodes, now_ms = await store.nodes(), store.now_ms()
        self._is_served = unserved_since_ms(nodes, self._node, self._delivers, now_ms) is None
        if self._is_served:
            oldest = oldest_ms(self._oldest_ms, others(nodes, self._node, now_ms))
        else:
            whole = await self._unserved.get()
            oldest = whole.oldest_ms
            self._waits(whole.events, whole.size_bytes)
        metrics.backlog_oldest.set(0 if oldest is None else max(0.0, (now_ms - oldest) / 1000))
        metrics.reading_held_up.set(store.queue.held_up_s())
        metrics.replicas = [(one.name, one.lag_bytes, one.lag_s) for one in await store.replicas()]
        metrics.store_bytes.set(await store.size_bytes())
        metrics.search_behind.set((await store.search.state()).behind_s)

    def _waits(self, events: int, size_bytes: int) -> None:
        self.waiting = events
        self._metrics.backlog.set(events)
        self._metrics.backlog_bytes.set(size_bytes)


def _in_use(credentials: Iterable[Credential]) -> int:
    """A number that stands for these credentials, as they were last changed: 63 bits of a digest."""
    each = sorted([f"{one.account} {one.changed_ms} {one.default}" for one in credentials])
    return int.from_bytes(sha256("\n".join(each).encode()).digest()[:8]) >> 1
