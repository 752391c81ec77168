"""What the key that is used may do: for programs that show their user nothing else."""

from __future__ import annotations

from typing import Any

from litestar import Request, get
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from tocsin.api import documentation as doc
from tocsin.api.admission import caller_of
from tocsin.api.shared import Shared
from tocsin.api.timestamps import rfc3339
from tocsin.store.records import Area, Role


class OwnKey(Struct, frozen=True):
    """The key of this request. `areas` are those that it is for; empty: all of them."""

    id: str
    role: Role
    name: str
    read_only: bool
    areas: list[Area]
    expires_at: str | None


class OwnKeyRoutes(Shared):
    """The route `/api/admin/me`."""

    def handlers(self) -> list[ControllerRouterHandler]:
        return [get("/me", **doc.admin("readOwnKey", "What the key of this request may do"))(self.own_key)]

    async def own_key(self, request: Request[Any, Any, Any]) -> OwnKey:
        key = caller_of(request.scope).key
        assert key is not None  # as `needs` says
        expires_at = None if key.expires_ms is None else rfc3339(key.expires_ms)
        return OwnKey(key.id, key.role, key.name, key.limits.read_only, sorted(key.limits.areas), expires_at)
