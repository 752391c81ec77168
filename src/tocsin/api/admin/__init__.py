"""The operator's routes, under `/api/admin`: all with an admin key, none that ever shows a credential."""

from __future__ import annotations

from collections.abc import Callable
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
from tocsin.api.control import CredentialRules, DeliveryControl
from tocsin.api.documentation import ADMIN
from tocsin.store.ports import Applications, DeadLetters, EventQueue, Registry

MAX_BODY_BYTES = 64 * 1024


def admin_router(
    *,
    keys: Keys,
    queue: EventQueue,
    registry: Registry,
    applications: Applications,
    delivery: DeliveryControl,
    credentials: CredentialRules | None,
    clock: Callable[[], float],
    dead_letters: DeadLetters,
) -> Router:
    """Everything under `/api/admin`."""
    return Router(
        "/api/admin",
        route_handlers=[
            *ApplicationRoutes(applications, credentials, clock).handlers(),
            *DeviceRoutes(registry, delivery).handlers(),
            *OperationRoutes(queue, registry, delivery).handlers(),
            *DeadLetterRoutes(dead_letters).handlers(),
        ],
        guards=[keys.admin_guard, _json_only],
        security=ADMIN,
        tags=["operators"],
        request_max_body_size=MAX_BODY_BYTES,
    )


def _json_only(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Litestar would read forms and MessagePack as well."""
    content_type(connection.scope, JSON)  # type: ignore[arg-type]
