"""How delivery is doing: lanes, backlog, and the tokens that the fuse holds in quarantine."""

from __future__ import annotations

from litestar import get, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from tocsin.api import documentation as doc
from tocsin.api.control import DeliveryControl
from tocsin.api.shared import Shared
from tocsin.api.timestamps import rfc3339
from tocsin.domain.lanes import LaneStatus
from tocsin.store.ports import Backlog, EventQueue, Registry, Removal


class Quarantine(Struct, frozen=True):
    """Tokens of one application (or Firebase project) that were declared dead in suspicious numbers."""

    application: str
    tokens: int
    oldest_at: str


class Released(Struct, frozen=True):
    released: int


class Purged(Struct, frozen=True):
    purged: int


class OperationRoutes(Shared):
    def __init__(self, queue: EventQueue, registry: Registry, delivery: DeliveryControl) -> None:
        self._queue = queue
        self._registry = registry
        self._delivery = delivery

    def handlers(self) -> list[ControllerRouterHandler]:
        release, purge = "/quarantine/{application:str}/release", "/quarantine/{application:str}/purge"
        return [
            get("/lanes", **doc.admin("listLanes", "Lanes, and how they are"))(self.lanes),
            get("/backlog", **doc.admin("readBacklog", "Events that wait"))(self.backlog),
            get("/quarantine", **doc.admin("listQuarantine", "Quarantined tokens, by application"))(self.quarantine),
            post(release, status_code=200, **doc.admin("releaseQuarantine", "Register the tokens again", 415))(
                self.release
            ),
            post(purge, status_code=200, **doc.admin("purgeQuarantine", "Let the tokens be gone", 415))(self.purge),
        ]

    async def lanes(self) -> list[LaneStatus]:
        return self._delivery.lanes()

    async def backlog(self) -> Backlog:
        return self._queue.backlog()

    async def quarantine(self) -> list[Quarantine]:
        held: dict[str, list[Removal]] = {}
        for removal in await self._registry.history(quarantined_only=True):
            held.setdefault(removal.application, []).append(removal)
        return [
            Quarantine(application, len(removals), rfc3339(min(removal.removed_ms for removal in removals)))
            for application, removals in sorted(held.items())
        ]

    async def release(self, application: FromPath[str]) -> Released:
        return Released(await self._registry.restore(application=application))

    async def purge(self, application: FromPath[str]) -> Purged:
        return Purged(await self._registry.purge_quarantine(application))
