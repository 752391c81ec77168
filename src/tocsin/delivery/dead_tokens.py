"""Dead tokens: from what the provider said of them until the registry has removed them, or keeps them all the same."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from tocsin.delivery.fuse import Fuse
from tocsin.domain.outcomes import TokenDead
from tocsin.providers.base import Push
from tocsin.store.ports import DeadToken, Registry, StoreUnavailable


class _Dead(Struct):
    push: Push
    outcome: TokenDead

    def token(self) -> DeadToken:
        device, outcome = self.push.device, self.outcome
        before_us = self.push.sent_us if outcome.timestamp_ms is None else outcome.timestamp_ms * 1000
        application = device.application_id or self.push.route.lane.removeprefix("fcm:")
        said = f"{outcome.answer.status} {outcome.answer.reason}"
        return DeadToken(device.system, device.token, before_us, said, application)


class DeadTokens:
    def __init__(self, registry: Registry, fuse_of: Callable[[Push], Fuse]) -> None:
        self._registry = registry
        self._fuse_of = fuse_of
        self._waiting: list[_Dead] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, push: Push, outcome: TokenDead) -> None:
        self._waiting.append(_Dead(push, outcome))

    async def remove(self, removed: Callable[[Push, TokenDead, bool], None]) -> None:
        """Remove, or quarantine where the fuse has blown.

        `removed` is told of each, and whether it was registered again since, for which it is kept.

        Raises:
            StoreUnavailable: those of whom nothing was told wait for the next time.
        """
        # By the fuses as they are now, not as they were when the answers came: one may have blown in between.
        parted: dict[bool, list[_Dead]] = {False: [], True: []}
        for dead in self._waiting:
            parted[self._fuse_of(dead.push).blown].append(dead)
        self._waiting = []
        try:
            for quarantine, deaths in parted.items():
                if not deaths:
                    continue
                if quarantine:
                    for dead in deaths:
                        self._fuse_of(dead.push).hold()
                keepers = await self._registry.remove_dead([dead.token() for dead in deaths], quarantine=quarantine)
                parted[quarantine] = []
                for dead, kept in zip(deaths, keepers, strict=True):
                    removed(dead.push, dead.outcome, dead.push.device.owner in kept)
        except StoreUnavailable:
            self._waiting = parted[False] + parted[True] + self._waiting
            raise
