"""What each route needs of its caller. This is the one place that says so.

`admission` enforces it. An application with a route that has no row here does not start. HEAD needs what GET needs;
OPTIONS, which tells the methods of a path, needs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from litestar.routes import BaseRoute, HTTPRoute
from msgspec import Struct

from tocsin.store.records import Area, Role


class Needs(Struct, frozen=True, kw_only=True):
    """What a caller must have: a user's session, or a key with one of the roles. Neither: anybody may call."""

    user: bool = False
    roles: tuple[Role, ...] = ()
    area: Area | None = None
    """What an admin key that is limited to areas must be for. None: any admin key will do."""
    whole: bool = False
    """Whether an admin key that is limited to areas is refused, whichever they are: with what the route does it could
    make itself a stronger one."""
    write: bool = False
    """Whether it changes something, so that a key that may only read is refused."""
    more_for: tuple[Role, ...] = ()
    """Keys of these roles are told more; nobody is refused."""


def _operator(area: Area, *, write: bool = False) -> Needs:
    return Needs(roles=(Role.ADMIN,), area=area, write=write)


_ANYBODY: Final = Needs()
_USER: Final = Needs(user=True)
_READ_CREDENTIALS: Final = _operator(Area.CREDENTIALS)
_WRITE_CREDENTIALS: Final = _operator(Area.CREDENTIALS, write=True)
_READ_DEVICES: Final = _operator(Area.DEVICES)
_WRITE_DEVICES: Final = _operator(Area.DEVICES, write=True)
_READ_DELIVERIES: Final = _operator(Area.DELIVERIES)
_WRITE_DELIVERIES: Final = _operator(Area.DELIVERIES, write=True)
_READ_JOBS: Final = Needs(roles=(Role.ADMIN,), whole=True)
_WRITE_JOBS: Final = Needs(roles=(Role.ADMIN,), whole=True, write=True)
_READ_ACCESS: Final = Needs(roles=(Role.ADMIN,), whole=True)
_WRITE_ACCESS: Final = Needs(roles=(Role.ADMIN,), whole=True, write=True)

NEEDS: Final[Mapping[tuple[str, str], Needs]] = {
    ("GET", "/health/live"): _ANYBODY,
    ("GET", "/health/ready"): Needs(more_for=(Role.ADMIN, Role.MONITORING)),
    ("GET", "/metrics"): Needs(roles=(Role.ADMIN, Role.MONITORING)),
    ("GET", "/schema"): _ANYBODY,
    ("GET", "/schema/openapi.json"): _ANYBODY,
    ("GET", "/schema/openapi.yaml"): _ANYBODY,
    ("GET", "/schema/openapi.yml"): _ANYBODY,
    ("GET", "/schema/{path}"): _ANYBODY,  # Litestar's; it is never reached (`is_unknown_schema_path`).
    ("GET", "/api/push"): _USER,
    ("POST", "/api/push"): _USER,
    ("POST", "/api/events"): Needs(roles=(Role.PRODUCER,), write=True),
    ("GET", "/api/events/{event_id}"): Needs(roles=(Role.PRODUCER, Role.ADMIN), area=Area.DELIVERIES),
    ("GET", "/api/admin/me"): Needs(roles=(Role.ADMIN,)),
    ("GET", "/api/admin/audit"): Needs(roles=(Role.ADMIN,), whole=True),
    ("GET", "/api/admin/applications"): _READ_CREDENTIALS,
    ("PUT", "/api/admin/applications/{application_id}"): _WRITE_CREDENTIALS,
    ("DELETE", "/api/admin/applications/{application_id}"): _WRITE_CREDENTIALS,
    ("GET", "/api/admin/fcm-projects"): _READ_CREDENTIALS,
    ("PUT", "/api/admin/fcm-projects/{name}"): _WRITE_CREDENTIALS,
    ("DELETE", "/api/admin/fcm-projects/{name}"): _WRITE_CREDENTIALS,
    ("GET", "/api/admin/devices"): _READ_DEVICES,
    ("DELETE", "/api/admin/devices"): _WRITE_DEVICES,
    ("GET", "/api/admin/devices/history"): _READ_DEVICES,
    ("POST", "/api/admin/devices/restore"): _WRITE_DEVICES,
    ("GET", "/api/admin/quarantine"): _READ_DEVICES,
    ("POST", "/api/admin/quarantine/{application}/release"): _WRITE_DEVICES,
    ("POST", "/api/admin/quarantine/{application}/purge"): _WRITE_DEVICES,
    ("POST", "/api/admin/devices/search"): _READ_DEVICES,
    ("POST", "/api/admin/devices/remove"): _WRITE_DEVICES,
    ("GET", "/api/admin/accounts"): _READ_CREDENTIALS,
    ("POST", "/api/admin/accounts/{system}/{account}/check"): _WRITE_CREDENTIALS,
    ("POST", "/api/admin/deliveries/search"): _READ_DELIVERIES,
    ("GET", "/api/admin/events/{event_id}"): _READ_DELIVERIES,  # its text: only without areas (`admin/search.py`)
    ("POST", "/api/admin/events/test"): _WRITE_DELIVERIES,
    ("GET", "/api/admin/figures"): _READ_DELIVERIES,
    ("GET", "/api/admin/figures/stream"): _READ_DELIVERIES,
    ("GET", "/api/admin/nodes"): _READ_DELIVERIES,
    ("GET", "/api/admin/lanes"): _READ_DELIVERIES,
    ("GET", "/api/admin/backlog"): _READ_DELIVERIES,
    ("GET", "/api/admin/dead-letters"): _READ_DELIVERIES,
    ("GET", "/api/admin/dead-letters/{id}"): _READ_DELIVERIES,
    ("POST", "/api/admin/dead-letters/replay"): _WRITE_DELIVERIES,
    ("POST", "/api/admin/dead-letters/discard"): _WRITE_DELIVERIES,
    # Their actions are about dead letters and about devices.
    ("POST", "/api/admin/jobs/preview"): _READ_JOBS,
    ("POST", "/api/admin/jobs"): _WRITE_JOBS,
    ("GET", "/api/admin/jobs"): _READ_JOBS,
    ("GET", "/api/admin/jobs/{id}"): _READ_JOBS,
    ("POST", "/api/admin/jobs/{id}/stop"): _WRITE_JOBS,
    ("GET", "/api/admin/keys"): _READ_ACCESS,
    ("POST", "/api/admin/keys"): _WRITE_ACCESS,
    ("DELETE", "/api/admin/keys/{id}"): _WRITE_ACCESS,
    ("GET", "/api/admin/sessions"): _READ_ACCESS,
    ("POST", "/api/admin/sessions"): _WRITE_ACCESS,
    ("DELETE", "/api/admin/sessions/{id}"): _WRITE_ACCESS,
}
"""By method and path (as the OpenAPI document writes it)."""


def routes_of(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Method and path of each route, as `NEEDS` has them."""
    for route in routes:
        if isinstance(route, HTTPRoute):
            for method in route.methods:
                if method != "OPTIONS":
                    yield method, route.path_format


def check_complete(routes: Iterable[BaseRoute]) -> None:
    """Checks that it is said of each route what it needs.

    Raises:
        LookupError: a route has no row.
    """
    for method, path in routes_of(routes):
        if (method, path) not in NEEDS:
            raise LookupError(f"{method} {path} has no row in NEEDS (api/needs.py): say there who may call it")
