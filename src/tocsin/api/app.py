"""Assembles the HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from litestar import Litestar, Request
from litestar.routes import HTTPRoute
from litestar.types import ControllerRouterHandler, HTTPScope, Message, Receive, Send
from prometheus_client import CollectorRegistry

from tocsin.api import events, push
from tocsin.api.admin import admin_router
from tocsin.api.admission import Admission
from tocsin.api.auth import Sessions
from tocsin.api.client_address import TrustedProxies
from tocsin.api.control import DeliveryControl
from tocsin.api.conventions import convention
from tocsin.api.cors import Cors
from tocsin.api.documentation import is_unknown_schema_path, openapi_config
from tocsin.api.failures import NO_SUCH_ADDRESS, Failures, with_head
from tocsin.api.fast_path import FastPath
from tocsin.api.health import HealthRoutes
from tocsin.api.limits import Limits
from tocsin.api.needs import NEEDS, check_complete
from tocsin.api.own_pages import OwnPages
from tocsin.api.problems import problem_response
from tocsin.api.response_headers import with_usual_headers
from tocsin.ingest.batch import Ingest
from tocsin.ingest.tracing import IngestTraces
from tocsin.providers.rules import RuleBook
from tocsin.settings import Settings
from tocsin.sign_in.own import OwnSessions
from tocsin.sign_in.verdicts import Verifier
from tocsin.store.acting import acting
from tocsin.store.ports import Store


def create_app(
    *,
    settings: Settings,
    store: Store,
    rules: RuleBook,
    delivery: DeliveryControl,
    metrics: CollectorRegistry | None = None,
    verifier: Verifier | None = None,
    limits: Limits | None = None,
    ingest: Ingest | None = None,
    health_only: bool = False,
    traces: IngestTraces | None = None,
) -> Litestar:
    """The API as an ASGI application. `rules` are those of the configured providers; without `metrics` there is no
    `/metrics`, without `verifier` there are only tocsin's own sessions, and without `limits` or `ingest` its own are
    used. With `health_only` it has health and metrics alone, for a process that only delivers.

    Raises:
        LookupError: it is not said of a route who may call it.
    """
    in_force = convention(settings.push_api.convention, rules)
    limits = limits or Limits(settings)
    sessions = Sessions(
        verifier or OwnSessions(store.access), OwnPages(settings.push_api.origins), sid_in_url=in_force.sid_in_url
    )
    admission = Admission(sessions, store.access, limits)
    push_routes = push.PushRoutes(
        settings=settings, convention=in_force, registry=store.registry, credentials=store.credentials, rules=rules
    )
    event_routes = events.EventRoutes(
        settings=settings,
        limits=limits,
        store=store,
        ingest=ingest or Ingest(settings, rules),
        accepted=delivery.accepted,
        traces=traces,
    )
    admin = admin_router(settings=settings, store=store, delivery=delivery, rules=rules, events=event_routes)
    failures = Failures(problem_response, {push.PATH: in_force.refused})
    health = HealthRoutes(delivery, metrics, admission)
    routes = [] if health_only else [*push_routes.handlers(), *event_routes.handlers(), admin]
    app = Api(
        [*routes, *health.handlers()],
        TrustedProxies(settings.server.trusted_proxies, settings.server.forwarded_header),
        Cors(settings.push_api.origins, push.PATH),
        guards=[admission.guard],
        exception_handlers=failures.handlers(),
        openapi_config=openapi_config(),
        logging_config=None,
        debug=False,
    )
    check_complete(app.routes)
    if health_only:
        return app
    for (method, path), serve in {
        ("GET", push.PATH): push_routes.tokens,
        ("POST", events.PATH): event_routes.ingest,
    }.items():
        app.fast_paths[method, path] = FastPath(serve, NEEDS[method, path], admission, failures)
    return app


def create_private_app(delivery: DeliveryControl, metrics: CollectorRegistry) -> Litestar:
    """Health with its details, and metrics: for an address of their own, where nobody needs a key."""
    return Api(
        HealthRoutes(delivery, metrics, None).handlers(),
        TrustedProxies(None),
        Cors((), push.PATH),
        exception_handlers=Failures(problem_response, {}).handlers(),
        openapi_config=None,
        logging_config=None,
        debug=False,
    )


class Api(Litestar):
    """Litestar, stricter about paths (`/api/push/` is not `/api/push`), and with HEAD wherever there is GET."""

    def __init__(
        self, route_handlers: Sequence[ControllerRouterHandler], proxies: TrustedProxies, cors: Cors, **options: Any
    ) -> None:
        super().__init__(route_handlers, **options)
        self.proxies = proxies
        self.cors = cors
        self.fast_paths: dict[tuple[str, str], FastPath] = {}
        """The routes that are served without Litestar's pipeline, by method and path."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.proxies.apply(scope)
            send = with_usual_headers(scope, send)
            if self.cors.allows(scope):
                if self.cors.is_preflight(scope):
                    await self.cors.answer_preflight(scope, send)
                    return
                send = self.cors.with_permission(scope, send)
            path, method = scope["path"], scope["method"]
            fast_path = self.fast_paths.get((method, path))
            if fast_path is not None:
                await fast_path(scope, receive, send)
                return
            if "//" in path or (path[-1:] == "/" and path != "/") or is_unknown_schema_path(path):
                await _not_found(scope, receive, send)
                return
            if method == "HEAD":
                # In a copy: the server keeps the original scope, and so sends no body.
                scope = {**scope, "method": "GET"}
            elif method == "OPTIONS":
                send = self._with_all_methods(scope, send)
        # Whoever a guard finds to be acting does so until this request ends, in whatever task that runs.
        with acting(None):
            await super().__call__(scope, receive, send)

    def _with_all_methods(self, scope: HTTPScope, send: Send) -> Send:
        """`send`, with all methods of the path in `Allow`. Litestar itself names those of one handler only."""

        async def send_all(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 204:
                template = scope["path_template"]
                routes = [route for route in self.routes if isinstance(route, HTTPRoute)]
                methods = {method for route in routes if route.path_format == template for method in route.methods}
                message["headers"] = [(b"allow", with_head(", ".join(methods)).encode())]
            await send(message)

        return send_all


async def _not_found(scope: HTTPScope, receive: Receive, send: Send) -> None:
    request: Request[Any, Any, Any] = Request(scope, receive, send)
    response = problem_response(NO_SUCH_ADDRESS)
    await response.to_asgi_response(app=None, request=request)(scope, receive, send)
