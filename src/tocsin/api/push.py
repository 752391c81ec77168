"""`/api/push`: a user's apps register and remove their device tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from litestar import Request, get, post
from litestar.response.base import ASGIResponse
from litestar.types import ControllerRouterHandler, HTTPScope, Receive

from tocsin.api import documentation as doc
from tocsin.api.auth import Sessions
from tocsin.api.body import JSON, content_type, read_body
from tocsin.api.control import DeliveryControl
from tocsin.api.conventions import Convention, Tokens
from tocsin.api.express import Answer
from tocsin.api.push_request import Add, Delete, parse_push, unknown_application
from tocsin.domain.devices import ApplicationId, Device
from tocsin.domain.events import UserId
from tocsin.settings import Settings
from tocsin.store.ports import Applications, Registry

PATH: Final = "/api/push"
MAX_BODY_BYTES: Final = 64 * 1024


class RegistrationTimes:
    """Unix microseconds, each later than the one before, so that the order of registration is never lost."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last_us = 0

    def next_us(self) -> int:
        self._last_us = max(int(self._clock() * 1_000_000), self._last_us + 1)
        return self._last_us


class PushRoutes:
    def __init__(
        self,
        *,
        settings: Settings,
        convention: Convention,
        sessions: Sessions,
        registry: Registry,
        applications: Applications,
        delivery: DeliveryControl,
        clock: Callable[[], float],
    ) -> None:
        self._max_tokens = settings.push_api.max_tokens_per_user
        self._timeout_s = settings.server.request_timeout_s
        self._convention = convention
        self._sessions = sessions
        self._registry = registry
        self._applications = applications
        self._delivery = delivery
        self._times = RegistrationTimes(clock)

    def handlers(self) -> list[ControllerRouterHandler]:
        return [
            get(PATH, **doc.read_tokens(Tokens))(self.read),
            post(PATH, status_code=200, **doc.CHANGE_TOKEN)(self.change),
        ]

    async def read(self, request: Request[Any, Any, Any]) -> ASGIResponse:
        return (await self.tokens(request.scope, request.receive)).response()

    async def tokens(self, scope: HTTPScope, _: Receive) -> Answer:
        owner = await self._sessions.owner(scope)
        devices = await self._registry.devices_of((owner,))
        return self._convention.tokens(devices.get(owner, []))

    async def change(self, request: Request[Any, Any, Any]) -> ASGIResponse:
        owner = await self._sessions.owner(request.scope)
        content_type(request.scope, JSON)
        operation = parse_push(await read_body(request.scope, request.receive, MAX_BODY_BYTES, self._timeout_s))
        match operation:
            case Add():
                await self._add(owner, operation)
            case Delete():
                await self._registry.delete(owner, operation.system, operation.token)
                # Whether or not there was one: no push goes to that token once this is answered.
                self._delivery.cancel(owner, operation.system, operation.token)
        return self._convention.done().response()

    async def _add(self, owner: UserId, add: Add) -> None:
        if add.application_id is not None and not await self._is_known(add.application_id):
            raise unknown_application(add.application_id)
        registered_us = self._times.next_us()
        device = Device(owner, add.system, add.token, add.application_id, add.sandbox, add.apns_topic, registered_us)
        evicted = await self._registry.add(device, self._max_tokens)
        self._delivery.registered(owner, add.system, add.token)
        for old in evicted:
            self._delivery.cancel(owner, old.system, old.token)

    async def _is_known(self, application_id: ApplicationId) -> bool:
        return any(known.id == application_id for known in await self._applications.applications())
