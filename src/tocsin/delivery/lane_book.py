"""All lanes by name, and the fuses of their accounts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import structlog

from tocsin.delivery.fuse import Counted, Fuse
from tocsin.delivery.lane import Lane, LaneOptions
from tocsin.delivery.memory import Memory, Share
from tocsin.domain.nodes import FuseCount
from tocsin.domain.routes import LaneStatus, Route
from tocsin.store.records import TopicReached

log = structlog.get_logger(__name__)

Account = tuple[str, str]
"""A provider and one of its accounts: it has one fuse, however many lanes it has."""


class LaneBook:
    """Lanes are made when the first delivery by one of their routes comes."""

    def __init__(self, options: LaneOptions, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        self._random = random
        self._lanes: dict[str, Lane] = {}
        self._fuses: dict[Account, Fuse] = {}
        self._right: dict[Account, set[str]] = {}
        """Topics that are known to be right from before the start; a lane is told when it is made."""
        self._memory = Memory()

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._lanes.values()))

    def __getitem__(self, name: str) -> Lane:
        return self._lanes[name]

    def of(self, route: Route) -> Lane:
        lane = self._lanes.get(route.lane)
        if lane is None:
            fuse = self._fuse((route.provider, route.account))
            lane = self._lanes[route.lane] = Lane(route, self._options, fuse, self._clock, self._random, self._memory)
            lane.evidence.right.update(self._right.get((route.provider, route.account), ()))
        return lane

    def room(self, name: str) -> int:
        """How many parked deliveries may be claimed for a lane."""
        lane = self._lanes.get(name)
        return max(1, self._options.waiting // 4) if lane is None else lane.room

    def room_for_the_fewer(self, name: str) -> tuple[bool, int]:
        """Where there is no room: see `Lane.room_for_the_fewer`."""
        return self._lanes[name].room_for_the_fewer if name in self._lanes else (True, 0)

    def room_bytes(self, name: str) -> int:
        """How much content may be claimed with them."""
        lane = self._lanes.get(name)
        return Share(self._memory).room_bytes // 2 if lane is None else lane.room_bytes

    def next_chance(self, name: str) -> float | None:
        """When a lane without room may try again (loop time); None where nobody knows."""
        lane = self._lanes.get(name)
        return None if lane is None else lane.next_chance()

    def known(self, names: Collection[str]) -> list[Lane]:
        """Those of the lanes that are there."""
        return [self._lanes[name] for name in names if name in self._lanes]

    def are_too_busy(self) -> bool:
        """Whether nothing more should be claimed: a busy lane makes the queue wait, a slow one only parks its own."""
        return any(lane.busy and not lane.slow for lane in self._lanes.values())

    def forget(self, provider: str, owner: str, token: str) -> list[Lane]:
        """A device was deleted or registered anew; returns the lanes in which something has waited for its pause."""
        own = [lane for lane in self._lanes.values() if lane.provider == provider]
        for lane in own:
            lane.forget(owner, token)
        return [lane for lane in own if lane.pauses.released]

    def topics_are_right(self, reached: Iterable[TopicReached]) -> None:
        """What the registry knows from before the start: on these topics devices were reached with the credential that
        is still used."""
        for one in reached:
            self._right.setdefault((one.provider, one.account), set()).add(one.topic)

    def forget_topics(self, provider: str) -> None:
        """A credential of this provider has changed: what is known from before the start holds no longer."""
        for account in [account for account in self._right if account[0] == provider]:
            del self._right[account]

    def topics_reached(self) -> list[TopicReached]:
        """What the registry does not know yet."""
        return [
            TopicReached(lane.provider, lane.account, topic, at_ms)
            for lane in self._lanes.values()
            for topic, at_ms in lane.evidence.to_note.items()
        ]

    def statuses(self) -> list[LaneStatus]:
        return [lane.status() for lane in self._lanes.values()]

    def quarantined(self, accounts: Mapping[Account, object]) -> None:
        """Whose tokens are in quarantine now: a fuse is whole again once the operator has released or purged them."""
        for account in accounts:
            self._fuse(account).hold()
        for account, fuse in self._fuses.items():
            if account not in accounts and fuse.may_be_reset():
                log.info("fuse reset", provider=account[0], account=account[1])
                fuse.reset()

    @property
    def any_fuse_blown(self) -> bool:
        return any(fuse.blown for fuse in self._fuses.values())

    def fuse_counts(self, now_ms: int) -> list[FuseCount]:
        """What the fuses of other nodes have to know of this one. `now_ms` is the store's time."""
        return [
            FuseCount(*account, now_ms - int(own.age_s * 1000), own.attempts, own.dead)
            for account, fuse in self._fuses.items()
            if (own := fuse.counted) is not None
        ]

    def counted_elsewhere(self, counts: Iterable[FuseCount], now_ms: int) -> None:
        """What other nodes have counted: a token that dies here is one of many, perhaps."""
        of_account: dict[Account, list[Counted]] = {}
        for one in counts:
            counted = Counted((now_ms - one.since_ms) / 1000, one.attempts, one.dead)
            of_account.setdefault((one.provider, one.account), []).append(counted)
        for account, fuse in self._fuses.items():
            if fuse.count_elsewhere(of_account.get(account, ())):
                log.error(
                    "fuse blown: too many dead tokens on all nodes together; removals are quarantined",
                    provider=account[0],
                    account=account[1],
                )

    def _fuse(self, account: Account) -> Fuse:
        fuse = self._fuses.get(account)
        if fuse is None:
            fuse = self._fuses[account] = Fuse(self._clock)
        return fuse
