"""The present state of delivery: the backlog, and the tokens that the fuse has put into quarantine."""

from __future__ import annotations

from litestar import Response, get, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from tocsin.api import documentation as doc
from tocsin.api.capped import capped
from tocsin.api.shared import Shared
from tocsin.api.timestamps import rfc3339
from tocsin.store.ports import EventQueue, Registry
from tocsin.store.records import Backlog


class Quarantine(Struct, frozen=True):
    """Tokens of one application (or Firebase project) that were declared dead in suspicious numbers; `for_topic` of
    them are there because their provider said for a week that they are not for their topic."""

    application: str
    system: str
    tokens: int
    oldest_at: str
    for_topic: int


class Released(Struct, frozen=True):
    """How many registrations are back."""

    released: int


class Purged(Struct, frozen=True):
    """How many registrations were removed for good."""

    purged: int


class OperationRoutes(Shared):
    """The routes of `/api/admin/backlog` and `/api/admin/quarantine`."""

    def __init__(self, queue: EventQueue, registry: Registry, max_tokens: int) -> None:
        self._queue = queue
        self._registry = registry
        self._max_tokens = max_tokens

    def handlers(self) -> list[ControllerRouterHandler]:
        release, purge = "/quarantine/{application:str}/release", "/quarantine/{application:str}/purge"
        return [
            get("/backlog", **doc.admin("readBacklog", "How many events are not delivered yet"))(self.backlog),
            get("/quarantine", **doc.admin("listQuarantine", "Quarantined tokens, by application", is_capped=True))(
                self.quarantine
            ),
            post(
                release,
                status_code=200,
                **doc.admin("releaseQuarantine", "Restore the registrations of the tokens", 415),
            )(self.release),
            post(purge, status_code=200, **doc.admin("purgeQuarantine", "Remove the tokens for good", 415))(self.purge),
        ]

    async def backlog(self) -> Backlog:
        return await self._queue.backlog()

    async def quarantine(self) -> Response[list[Quarantine]]:
        held = [
            Quarantine(one.account, one.provider, one.tokens, rfc3339(one.oldest_ms), one.for_topic)
            for one in await self._registry.quarantine()
        ]
        return capped(held)

    async def release(self, application: FromPath[str]) -> Released:
        return Released(await self._registry.release_quarantine(application, self._max_tokens))

    async def purge(self, application: FromPath[str]) -> Purged:
        return Purged(await self._registry.purge_quarantine(application))
