"""Puts the HTTP API together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from litestar import Litestar, Request
from litestar.routes import HTTPRoute
from litestar.types import HTTPScope, Message, Receive, Send
from prometheus_client import CollectorRegistry

from tocsin.api import events, push
from tocsin.api.admin import admin_router
from tocsin.api.auth import Keys, Sessions
from tocsin.api.control import CredentialRules, DeliveryControl
from tocsin.api.conventions import convention
from tocsin.api.documentation import is_unknown_schema_path, openapi_config
from tocsin.api.express import Express
from tocsin.api.failures import Failures, with_head
from tocsin.api.health import HealthRoutes
from tocsin.api.problems import Kind, Problem, problem_response
from tocsin.settings import Settings
from tocsin.store.ports import Access, Applications, DeadLetters, EventQueue, Registry


def create_app(
    *,
    settings: Settings,
    queue: EventQueue,
    registry: Registry,
    access: Access,
    applications: Applications,
    delivery: DeliveryControl,
    clock: Callable[[], float] = time.time,
    metrics: CollectorRegistry | None = None,
    credentials: CredentialRules | None = None,
    dead_letters: DeadLetters,
) -> Litestar:
    """The API as an ASGI application.

    `clock` tells Unix seconds. Without `metrics` there is no `/metrics`; without `credentials`, uploaded credentials
    are stored unread.
    """
    in_force = convention(settings.push_api.convention)
    keys = Keys(access)
    push_routes = push.PushRoutes(
        settings=settings,
        convention=in_force,
        sessions=Sessions(access, sid_in_url=in_force.sid_in_url),
        registry=registry,
        applications=applications,
        delivery=delivery,
        clock=clock,
    )
    event_routes = events.EventRoutes(settings=settings, keys=keys, queue=queue, delivery=delivery, clock=clock)
    admin = admin_router(
        keys=keys,
        queue=queue,
        registry=registry,
        applications=applications,
        delivery=delivery,
        credentials=credentials,
        clock=clock,
        dead_letters=dead_letters,
    )
    failures = Failures(problem_response, {push.PATH: in_force.refused})
    app = Api(
        [*push_routes.handlers(), *event_routes.handlers(), admin, *HealthRoutes(delivery, metrics).handlers()],
        exception_handlers=failures.handlers(),
        openapi_config=openapi_config(),
        logging_config=None,
        debug=False,
    )
    app.express = {
        ("GET", push.PATH): Express(push_routes.tokens, failures),
        ("POST", events.PATH): Express(event_routes.accept, failures),
    }
    return app


class Api(Litestar):
    """Litestar, stricter about paths (`/api/push/` is not `/api/push`), and with HEAD wherever there is GET."""

    express: Mapping[tuple[str, str], Express]
    """By method and path: what is served without Litestar's pipeline."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path, method = scope["path"], scope["method"]
            express = self.express.get((method, path))
            if express is not None:
                await express(scope, receive, send)
                return
            if "//" in path or (path[-1:] == "/" and path != "/") or is_unknown_schema_path(path):
                await _not_found(scope, receive, send)
                return
            if method == "HEAD":
                # A copy: the server keeps the original, and sends no body for it.
                scope = {**scope, "method": "GET"}
            elif method == "OPTIONS":
                send = self._telling_methods(scope, send)
        await super().__call__(scope, receive, send)

    def _telling_methods(self, scope: HTTPScope, send: Send) -> Send:
        """Litestar's own answer to OPTIONS knows only the first handler of a path."""

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 204:
                template = scope["path_template"]
                routes = [route for route in self.routes if isinstance(route, HTTPRoute)]
                methods = {method for route in routes if route.path_format == template for method in route.methods}
                message["headers"] = [(b"allow", with_head(", ".join(methods)).encode())]
            await send(message)

        return tell


async def _not_found(scope: HTTPScope, receive: Receive, send: Send) -> None:
    request: Request[Any, Any, Any] = Request(scope, receive, send)
    response = problem_response(Problem(Kind.NOT_FOUND, "There is nothing at this address."))
    await response.to_asgi_response(app=None, request=request)(scope, receive, send)
