"""Who is calling: a user by session, a backend or an operator by key.

Secrets are read from the request and passed to `sign_in` or to `Access`, which stores only their hashes. They are never
logged, quoted or kept.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import HTTPScope

from tocsin.api.own_pages import OwnPages
from tocsin.api.problems import Kind, RequestError
from tocsin.api.shared import Shared
from tocsin.domain.events import UserId
from tocsin.sign_in.verdicts import Refused, SignedIn, Unavailable, Verifier
from tocsin.store.ports import Access
from tocsin.store.records import Role


class Sessions:
    """Finds the user that a session belongs to."""

    def __init__(self, verifier: Verifier, pages: OwnPages, *, sid_in_url: bool) -> None:
        self._verifier = verifier
        self._pages = pages
        self._sid_in_url = sid_in_url

    async def owner(self, scope: HTTPScope) -> UserId:
        """The signed-in user.

        Raises:
            RequestError: there is no session, it is not valid, or nobody has signed in (401); that cannot be known at
                present (503); or a page of another site sent the request with the user's cookie.
        """
        sid = bearer(scope)
        cookie = _cookie_sid(scope)
        if cookie is not None:
            if not self._pages.sent(scope):
                raise RequestError(
                    Kind.FOREIGN_PAGE, "A page of another site sent this request with the user's cookie."
                )
            sid = sid or cookie
        if sid is None and self._sid_in_url:
            sid = _url_sid(scope)
        verdict = None if sid is None else await self._verifier.verify(sid)
        match verdict:
            case SignedIn():
                return verdict.owner
            case Unavailable():
                detail = "The sign-in service cannot be asked at present; nothing was changed. Try again later."
                raise RequestError(Kind.SIGN_IN_UNAVAILABLE, detail, retry_after_s=verdict.retry_after_s)
            case Refused(nobody=True):
                raise RequestError(Kind.NO_USER, "Nobody has signed in to this session.")
            case _:
                raise RequestError(Kind.NO_SESSION, "This needs the session of a signed-in user.")


class Keys(Shared):
    """Checks the role of a key."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def require(self, scope: HTTPScope, *roles: Role) -> None:
        """Check that the request has a valid key with one of these roles.

        Raises:
            RequestError: there is no valid key (401), or it has another role (403).
        """
        secret = bearer(scope)
        key = None if secret is None else await self._access.key(secret)
        if key is not None and key.role in roles:
            return
        wanted = " or ".join(roles)
        if key is None:
            raise RequestError(Kind.NO_KEY, f"This needs a valid {wanted} key: `Authorization: Bearer <key>`.")
        raise RequestError(Kind.FORBIDDEN, f"This needs a key with the role {wanted}.")

    async def admin_guard(self, connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        await self.require(connection.scope, Role.ADMIN)  # type: ignore[arg-type]


def header(scope: HTTPScope, name: bytes) -> bytes | None:
    """The first header of that name (lower case). ASGI servers give names in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return value
    return None


def bearer(scope: HTTPScope) -> str | None:
    """The secret in `Authorization: Bearer …`, or None."""
    value = header(scope, b"authorization")
    if value is None:
        return None
    scheme, _, secret = value.partition(b" ")
    return (secret.strip().decode("latin-1") or None) if scheme.lower() == b"bearer" else None


def _cookie_sid(scope: HTTPScope) -> str | None:
    for key, value in scope["headers"]:
        if key == b"cookie":
            for pair in value.split(b";"):
                name, _, sid = pair.partition(b"=")
                if name.strip() == b"sid":
                    return sid.strip().strip(b'"').decode("latin-1") or None
    return None


def _url_sid(scope: HTTPScope) -> str | None:
    pairs = parse_qsl(scope["query_string"].decode("latin-1"))
    return next((value for name, value in pairs if name == "sid" and value), None)
