"""The operator's routes, under `/api/admin`. None ever shows a credential."""

from __future__ import annotations

from typing import Any

from litestar import Router, post
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from tocsin.api import documentation as doc
from tocsin.api.admin.access import AccessRoutes
from tocsin.api.admin.accounts import AccountRoutes
from tocsin.api.admin.applications import ApplicationRoutes
from tocsin.api.admin.audit import AuditRoutes
from tocsin.api.admin.dead_letters import DeadLetterRoutes
from tocsin.api.admin.devices import DeviceRoutes
from tocsin.api.admin.figures import FigureRoutes
from tocsin.api.admin.jobs import JobRoutes
from tocsin.api.admin.me import OwnKeyRoutes
from tocsin.api.admin.operation import OperationRoutes
from tocsin.api.admin.search import SearchRoutes
from tocsin.api.body import JSON, content_type
from tocsin.api.control import DeliveryControl
from tocsin.api.documentation import ADMIN
from tocsin.api.events import EventRoutes
from tocsin.api.json_body import JsonBodies
from tocsin.api.schemas import EVENT
from tocsin.providers.configured import token_hosts
from tocsin.providers.rules import RuleBook
from tocsin.settings import Settings
from tocsin.store.ports import Store


def admin_router(
    *,
    settings: Settings,
    store: Store,
    delivery: DeliveryControl,
    rules: RuleBook,
    events: EventRoutes,
) -> Router:
    """Everything under `/api/admin`."""
    bodies = JsonBodies(settings.server.request_timeout_s)
    max_tokens = settings.push_api.max_tokens_per_user
    return Router(
        "/api/admin",
        route_handlers=[
            *ApplicationRoutes(store, bodies, token_hosts(settings)).handlers(),
            *DeviceRoutes(store.registry, rules, bodies, max_tokens).handlers(),
            *OperationRoutes(store.queue, store.registry, max_tokens).handlers(),
            *DeadLetterRoutes(store.log, bodies).handlers(),
            *OwnKeyRoutes().handlers(),
            *AuditRoutes(store.audit).handlers(),
            post(
                "/events/test",
                status_code=202,
                **doc.admin(
                    "sendTestEvent", "Ingest one event, to try whether it arrives", 408, 409, 413, 415, body=EVENT
                ),
            )(events.ingest_for_operator),
            *SearchRoutes(store, rules, bodies, delivery).handlers(),
            *FigureRoutes(store, rules, delivery).handlers(),
            *AccountRoutes(store, rules, bodies, delivery).handlers(),
            *AccessRoutes(store, bodies).handlers(),
            *JobRoutes(store, rules, bodies, max_tokens).handlers(),
        ],
        guards=[_json_only],
        security=ADMIN,
        tags=["operators"],
    )


def _json_only(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Refuses other bodies, before anything of them is read."""
    content_type(connection.scope, JSON)  # type: ignore[arg-type]
