"""`/api/push`: a user's apps read, add and delete their device tokens."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Final

from litestar import Request, get, post
from litestar.response.base import ASGIResponse
from litestar.types import ControllerRouterHandler, HTTPScope, Receive

from tocsin.api import documentation as doc
from tocsin.api.admission import Caller, caller_of
from tocsin.api.body import JSON, content_type, read_body
from tocsin.api.client_address import client_address
from tocsin.api.conventions import Convention
from tocsin.api.fast_path import Success
from tocsin.api.push_request import Add, Delete, parse_push, unknown_application
from tocsin.domain.actors import Actor, ActorKind
from tocsin.domain.devices import Registration
from tocsin.domain.events import UserId
from tocsin.providers.rules import RuleBook
from tocsin.settings import Settings
from tocsin.store.acting import acting
from tocsin.store.ports import Credentials, Registry

PATH: Final = "/api/push"
MAX_BODY_BYTES: Final = 64 * 1024


class PushRoutes:
    """The routes of `/api/push`."""

    def __init__(
        self,
        *,
        settings: Settings,
        convention: Convention,
        registry: Registry,
        credentials: Credentials,
        rules: RuleBook,
    ) -> None:
        self._audit_registrations = settings.audit.registrations
        self._max_tokens = settings.push_api.max_tokens_per_user
        self._timeout_s = settings.server.request_timeout_s
        self._convention = convention
        self._registry = registry
        self._credentials = credentials
        self._rules = rules

    def handlers(self) -> list[ControllerRouterHandler]:
        return [
            get(PATH, **doc.READ_TOKENS)(self.read),
            post(PATH, status_code=200, **doc.CHANGE_TOKEN)(self.change),
        ]

    async def read(self, request: Request[Any, Any, Any]) -> ASGIResponse:
        return (await self.tokens(request.scope, request.receive, caller_of(request.scope))).response()

    async def tokens(self, scope: HTTPScope, _: Receive, caller: Caller) -> Success:
        """Serve `GET /api/push`."""
        owner = _user(caller)
        devices = await self._registry.devices_of((owner,))
        return self._convention.tokens(devices.get(owner, ()))

    async def change(self, request: Request[Any, Any, Any]) -> ASGIResponse:
        owner = _user(caller_of(request.scope))
        content_type(request.scope, JSON)
        body = await read_body(request.scope, request.receive, MAX_BODY_BYTES, self._timeout_s)
        operation = parse_push(body, self._rules)
        user = Actor(ActorKind.USER, owner, client_address(request.scope))
        match operation:
            case Add():
                with acting(user) if self._audit_registrations else nullcontext():
                    await self._add(owner, operation)
            case Delete():
                # The registry signals it even where it has no such token: another node may still send to it.
                with acting(user):
                    await self._registry.delete(owner, operation.provider, operation.token)
        return self._convention.done().response()

    async def _add(self, owner: UserId, add: Add) -> None:
        if add.account is not None:
            known = await self._credentials.of(add.provider)
            if not any(credential.account == add.account for credential in known):
                raise unknown_application(add.account)
        await self._registry.add(Registration(owner, add.provider, add.token, add.address), self._max_tokens)


def _user(caller: Caller) -> UserId:
    assert caller.owner is not None  # as `needs` says
    return caller.owner
