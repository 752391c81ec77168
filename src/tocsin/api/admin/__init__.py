"""The operator's routes, under `/api/admin`. All need an admin key; none ever shows a credential."""

from __future__ import annotations

from typing import Any

from litestar import Router
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from tocsin.api.admin.applications import ApplicationRoutes
from tocsin.api.admin.dead_letters import DeadLetterRoutes
from tocsin.api.admin.devices import DeviceRoutes
from tocsin.api.admin.operation import OperationRoutes
from tocsin.api.auth import Keys
from tocsin.api.body import JSON, content_type
from tocsin.api.control import DeliveryControl
from tocsin.api.documentation import ADMIN
from tocsin.providers.rules import RuleBook
from tocsin.store.ports import Store

MAX_BODY_BYTES = 64 * 1024


def admin_router(*, keys: Keys, store: Store, delivery: DeliveryControl, rules: RuleBook, max_tokens: int) -> Router:
    """Everything under `/api/admin`. No user gets more than `max_tokens` back."""
    return Router(
        "/api/admin",
        route_handlers=[
            *ApplicationRoutes(store).handlers(),
            *DeviceRoutes(store.registry, rules, max_tokens).handlers(),
            *OperationRoutes(store.queue, store.registry, delivery, max_tokens).handlers(),
            *DeadLetterRoutes(store.log).handlers(),
        ],
        guards=[keys.admin_guard, _json_only],
        security=ADMIN,
        tags=["operators"],
        request_max_body_size=MAX_BODY_BYTES,
    )


def _json_only(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Refuses other bodies: Litestar would also read forms and MessagePack."""
    content_type(connection.scope, JSON)  # type: ignore[arg-type]
