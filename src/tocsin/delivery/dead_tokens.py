"""Dead tokens: from what the provider said of them until the registry has removed them, or keeps them all the same."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from tocsin.delivery.fuse import Fuse
from tocsin.delivery.open_items import Delivery
from tocsin.domain.outcomes import TokenDead
from tocsin.store.ports import Registry, WriteFailure
from tocsin.store.records import DeadToken

Removed = Callable[[Delivery, TokenDead, bool, bool], None]
"""What became of a token: whether it was registered again since, for which it is kept, and whether it went into
quarantine."""


class _Dead(Struct):
    delivery: Delivery
    outcome: TokenDead

    def token(self) -> DeadToken:
        timestamp_ms, answer = self.outcome.timestamp_ms, self.outcome.answer
        before_us = None if timestamp_ms is None else timestamp_ms * 1000
        said = f"{answer.status} {answer.reason}"
        return DeadToken(self.delivery.device, self.delivery.route.account, said, before_us)


class DeadTokens:
    def __init__(self, registry: Registry, fuse_of: Callable[[Delivery], Fuse]) -> None:
        self._registry = registry
        self._fuse_of = fuse_of
        self._waiting: list[_Dead] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, delivery: Delivery, outcome: TokenDead) -> None:
        self._waiting.append(_Dead(delivery, outcome))
        self._fuse_of(delivery).undecided += 1

    async def remove(self, removed: Removed) -> None:
        """Remove, or quarantine where the fuse has blown; `removed` is told of each.

        Raises:
            WriteFailure: those of whom nothing was told wait for the next time.
        """
        # By the fuses as they are now, not as they were when the answers came: one may have blown in between.
        parted: dict[bool, list[_Dead]] = {False: [], True: []}
        for dead in self._waiting:
            parted[self._fuse_of(dead.delivery).blown].append(dead)
        self._waiting = []
        try:
            for quarantine, deaths in parted.items():
                if not deaths:
                    continue
                kept = await self._registry.remove_dead([dead.token() for dead in deaths], quarantine=quarantine)
                parted[quarantine] = []
                for dead, registered_again in zip(deaths, kept, strict=True):
                    fuse = self._fuse_of(dead.delivery)
                    fuse.undecided -= 1
                    if quarantine:
                        fuse.hold()
                    removed(dead.delivery, dead.outcome, registered_again, quarantine)
        except WriteFailure:
            self._waiting = parted[False] + parted[True] + self._waiting
            raise
