"""Lets in those who may call a route, as `needs` says, and refuses everybody else.

A session or a key that is valid may still be refused (403, 429); without one the answer is 401. Nothing of a request's
body is read before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import HTTPScope
from msgspec import Struct

from tocsin.api.auth import Sessions, bearer
from tocsin.api.client_address import client_address
from tocsin.api.limits import Limits
from tocsin.api.needs import NEEDS, Needs
from tocsin.api.problems import Kind, RequestError
from tocsin.api.shared import Shared
from tocsin.domain.actors import Actor, ActorKind
from tocsin.domain.events import UserId
from tocsin.store.acting import act_as
from tocsin.store.ports import Access, StoreError, WriteFailure
from tocsin.store.records import ApiKey

_HEALTH: Final = "/health/"
"""Under which nothing is limited: a load balancer must get its answer."""


class Caller(Struct, frozen=True):
    """Who was let in. Neither: anybody may call."""

    owner: UserId | None = None
    key: ApiKey | None = None


_ANYBODY: Final = Caller()


class Admission(Shared):
    """Checks every request before its route serves it."""

    def __init__(self, sessions: Sessions, access: Access, limits: Limits) -> None:
        self._sessions = sessions
        self._access = access
        self._limits = limits

    async def guard(self, connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        """For the routes that Litestar serves."""
        scope = cast(HTTPScope, connection.scope)
        if scope["method"] != "OPTIONS":
            needs = NEEDS[scope["method"], scope["path_template"]]
            caller = scope["state"]["caller"] = await self.admit(scope, needs)
            if caller.key is not None:
                # For the handler, which runs in the same task after the guards.
                act_as(Actor(ActorKind.KEY, caller.key.id, client_address(scope)))

    async def admit(self, scope: HTTPScope, needs: Needs) -> Caller:
        """The caller, who has what the route needs.

        Raises:
            RequestError: the caller does not, or calls too often.
        """
        if needs.roles:
            key = await self._key(scope, needs)
            self._limits.key(key)
            return Caller(key=key)
        if needs.user:
            self._limits.address(scope)
            owner = await self._user(scope)
            self._limits.user(owner)
            return Caller(owner=owner)
        if not scope["path"].startswith(_HEALTH):
            self._limits.address(scope)
        return _ANYBODY

    async def is_told_more(self, scope: HTTPScope, needs: Needs) -> bool:
        """Whether the request has a key that the route tells more. It raises nothing: an answer about the health of
        this server must not depend on a key, nor on the store."""
        secret = bearer(scope)
        if secret is None:
            return False
        try:
            key = await self._known(scope, secret)
        except (RequestError, StoreError, WriteFailure):
            return False
        return key is not None and key.role in needs.more_for

    async def _key(self, scope: HTTPScope, needs: Needs) -> ApiKey:
        secret = bearer(scope)
        key = None if secret is None else await self._known(scope, secret)
        if key is None:
            self._limits.address(scope)
            raise RequestError(
                Kind.NO_KEY, f"This needs a valid {_either(needs.roles)} key: `Authorization: Bearer <key>`."
            )
        if key.role not in needs.roles:
            raise RequestError(Kind.FORBIDDEN, f"This needs a key of the role {_either(needs.roles)}, not {key.role}.")
        _check_limits(key, needs)
        return key

    async def _known(self, scope: HTTPScope, secret: str) -> ApiKey | None:
        self._limits.may_try_secret(scope)
        key = await self._access.key(secret)
        if key is None:
            self._limits.wrong_secret(scope)
        return key

    async def _user(self, scope: HTTPScope) -> UserId:
        sid = self._sessions.given(scope)
        self._limits.may_try_secret(scope)
        try:
            return await self._sessions.owner(sid)
        except RequestError as error:
            if error.problem.kind is Kind.NO_SESSION:
                self._limits.wrong_secret(scope)
            raise


def caller_of(scope: HTTPScope) -> Caller:
    """Who was let in, in a handler of Litestar's."""
    return cast(Caller, scope["state"]["caller"])


def _check_limits(key: ApiKey, needs: Needs) -> None:
    limits = key.limits
    if limits.areas and needs.area is not None and needs.area not in limits.areas:
        raise RequestError(
            Kind.OTHER_AREA, f"This needs a key for {needs.area}; this key is for {' and '.join(sorted(limits.areas))}."
        )
    if limits.areas and needs.whole:
        raise RequestError(
            Kind.OTHER_AREA,
            f"This needs an admin key without areas; this key is for {' and '.join(sorted(limits.areas))}.",
        )
    if needs.write and limits.read_only:
        raise RequestError(Kind.READ_ONLY, "This changes something, and this key may only read.")


def _either(names: Sequence[str]) -> str:
    return " or ".join(names)
