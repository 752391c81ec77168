"""Reads the secret of a request, and finds the user that a session belongs to.

Secrets are passed to `sign_in` or to `Access`, which stores only their hashes. They are never logged, quoted or kept.
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from litestar.types import HTTPScope

from tocsin.api.own_pages import OwnPages
from tocsin.api.problems import Kind, RequestError
from tocsin.domain.events import UserId
from tocsin.sign_in.verdicts import Refused, SignedIn, Unavailable, Verifier


class Sessions:
    """Finds the session of a request, and the user that it belongs to."""

    def __init__(self, verifier: Verifier, pages: OwnPages, *, sid_in_url: bool) -> None:
        self._verifier = verifier
        self._pages = pages
        self._sid_in_url = sid_in_url

    def given(self, scope: HTTPScope) -> str:
        """The session that the request has, valid or not.

        Raises:
            RequestError: there is none (401), or a page of another site sent the request with the user's cookie (403).
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
        if sid is None:
            raise _no_session()
        return sid

    async def owner(self, sid: str) -> UserId:
        """The signed-in user.

        Raises:
            RequestError: the session is not valid, or nobody has signed in (401); or that cannot be known at present
                (503).
        """
        verdict = await self._verifier.verify(sid)
        match verdict:
            case SignedIn():
                return verdict.owner
            case Unavailable():
                detail = "The sign-in service cannot be asked at present; nothing was changed. Try again later."
                raise RequestError(Kind.SIGN_IN_UNAVAILABLE, detail, retry_after_s=verdict.retry_after_s)
            case Refused(nobody=True):
                raise RequestError(Kind.NO_USER, "Nobody has signed in to this session.")
            case _:
                raise _no_session()


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


def _no_session() -> RequestError:
    return RequestError(Kind.NO_SESSION, "This needs the session of a signed-in user.")


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
