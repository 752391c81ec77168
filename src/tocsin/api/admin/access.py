"""Keys and sessions: listed without their secrets, created (the secret is shown once), and revoked."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from litestar import Request, Response, delete, get, post
from litestar.params import FromPath, QueryParameter
from litestar.types import ControllerRouterHandler
from msgspec import UNSET, Meta, Struct, UnsetType

from tocsin.api import documentation as doc
from tocsin.api.capped import capped
from tocsin.api.json_body import JsonBodies
from tocsin.api.problems import Kind, RequestError, bad_input
from tocsin.api.schemas import LONGEST_S, NEW_KEY, NEW_SESSION
from tocsin.api.shared import Shared
from tocsin.api.timestamps import rfc3339
from tocsin.domain.events import MESSAGES, UserId
from tocsin.store.ports import Store
from tocsin.store.records import ApiKey, Area, KeyLimits, Rate, Role, Session

OWNER = Annotated[UUID, QueryParameter(description="Of this user")]
Seconds = Annotated[int, Meta(ge=1, le=LONGEST_S)]
_MOST = 1000


class RateView(Struct, frozen=True, forbid_unknown_fields=True):
    """So many events within so many seconds."""

    count: Annotated[int, Meta(ge=1, le=9_999_999)]
    per_s: Annotated[int, Meta(ge=1, le=3600)]


class KeyView(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A key, without its secret, and what it is limited to: a producer's `events` and `rate`, an admin's `areas`.
    What is absent is not limited."""

    id: str
    role: str
    name: str
    created_at: str
    expires_at: str | None
    read_only: bool
    events: list[str] | UnsetType = UNSET
    rate: RateView | UnsetType = UNSET
    areas: list[Area] | UnsetType = UNSET
    key: str | UnsetType = UNSET
    """The secret, in the answer that created it, and never again."""


class SessionView(Struct, frozen=True):
    """A session, without its secret."""

    id: str
    owner: str | None
    created_at: str
    expires_at: str | None


class NewSessionView(Struct, frozen=True):
    """The session's secret is shown this once."""

    id: str
    owner: str | None
    created_at: str
    expires_at: str | None
    sid: str


class SessionPage(Struct, frozen=True):
    """A user's newest sessions; `capped`: there are more than `most`."""

    sessions: list[SessionView]
    capped: bool
    most: int = _MOST


class KeyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    role: Role
    expires_in_s: Seconds | None
    name: str = ""
    events: list[str] | None = None
    rate: RateView | None = None
    read_only: bool = False
    areas: list[Area] | None = None


class SessionRequest(Struct, frozen=True, forbid_unknown_fields=True):
    owner: UUID
    expires_in_s: Seconds | None


class AccessRoutes(Shared):
    """The routes of `/api/admin/keys` and `/api/admin/sessions`."""

    def __init__(self, store: Store, bodies: JsonBodies) -> None:
        self._access = store.access
        self._now_ms = store.now_ms
        self._bodies = bodies

    def handlers(self) -> list[ControllerRouterHandler]:
        return [
            get("/keys", **doc.admin("listKeys", "The keys, the newest last", is_capped=True))(self.keys),
            post("/keys", **doc.admin("createKey", "Create a key", 413, 415, body=NEW_KEY))(self.create_key),
            delete("/keys/{id:str}", **doc.admin("revokeKey", "Revoke a key", 404))(self.revoke_key),
            get("/sessions", **doc.admin("listSessions", "A user's sessions"))(self.sessions),
            post("/sessions", **doc.admin("createSession", "Create a session", 413, 415, body=NEW_SESSION))(
                self.create_session
            ),
            delete("/sessions/{id:str}", **doc.admin("revokeSession", "Revoke a session", 404))(self.revoke_session),
        ]

    async def keys(self) -> Response[list[KeyView]]:
        return capped([_key(key) for key in await self._access.keys()], newest_last=True)

    async def create_key(self, request: Request[Any, Any, Any]) -> KeyView:
        data = await self._bodies.read(request, KeyRequest)
        limits, expires_ms = _limits(data), self._expiry_ms(data.expires_in_s)
        secret, key = await self._access.create_key(data.role, data.name, expires_ms, limits)
        return _key(key, secret)

    async def revoke_key(self, id: FromPath[str]) -> None:
        # By its id alone: a secret does not belong in a URL.
        if not (id.startswith("key_") and await self._access.revoke_key(id)):
            raise RequestError(Kind.NOT_FOUND, "There is no key of this id.")

    async def sessions(self, owner: OWNER) -> SessionPage:
        """Of one user: all sessions of a platform are too many for an answer."""
        found = await self._access.sessions(UserId(str(owner)))
        newest = found[::-1][:_MOST]
        return SessionPage([SessionView(*_session(one)) for one in newest], len(found) > _MOST)

    async def create_session(self, request: Request[Any, Any, Any]) -> NewSessionView:
        data = await self._bodies.read(request, SessionRequest)
        expires_ms = self._expiry_ms(data.expires_in_s)
        secret, session = await self._access.create_session(UserId(str(data.owner)), expires_ms)
        return NewSessionView(*_session(session), secret)

    async def revoke_session(self, id: FromPath[str]) -> None:
        if not (id.startswith("ses_") and await self._access.revoke_session(id)):
            raise RequestError(Kind.NOT_FOUND, "There is no session of this id.")

    def _expiry_ms(self, in_s: int | None) -> int | None:
        return None if in_s is None else self._now_ms() + in_s * 1000


def _limits(data: KeyRequest) -> KeyLimits:
    of_producers = {"events": data.events, "rate": data.rate}
    of_admins = {"read_only": data.read_only or None, "areas": data.areas}
    for fields, whose in ((of_producers, Role.PRODUCER), (of_admins, Role.ADMIN)):
        for name, value in fields.items():
            if value is not None and data.role is not whose:
                raise bad_input(f"$.{name}", f"only for {whose} keys, and this is to be a {data.role} key")
    for index, event in enumerate(data.events or ()):
        if event not in MESSAGES:
            raise bad_input(f"$.events[{index}]", f"none of {', '.join(MESSAGES)}")
    return KeyLimits(
        events=frozenset(data.events or ()),
        rate=None if data.rate is None else Rate(data.rate.count, data.rate.per_s),
        read_only=data.read_only,
        areas=frozenset(data.areas or ()),
    )


def _key(key: ApiKey, secret: str | None = None) -> KeyView:
    limits = key.limits
    return KeyView(
        id=key.id,
        role=key.role.value,
        name=key.name,
        created_at=rfc3339(key.created_ms),
        expires_at=_time(key.expires_ms),
        read_only=limits.read_only,
        events=sorted(limits.events) or UNSET,
        rate=UNSET if limits.rate is None else RateView(limits.rate.count, limits.rate.per_s),
        areas=sorted(limits.areas) or UNSET,
        key=UNSET if secret is None else secret,
    )


def _session(session: Session) -> tuple[str, str | None, str, str | None]:
    return session.id, session.owner, rfc3339(session.created_ms), _time(session.expires_ms)


def _time(ms: int | None) -> str | None:
    return None if ms is None else rfc3339(ms)
