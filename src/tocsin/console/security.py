"""What protects the browser's user: the headers of every answer, the cookies, and where a form may come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from litestar import Request
from litestar.datastructures import Cookie
from litestar.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY: Final = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    # Not `no-referrer`: browsers would then send `Origin: null` with the console's own forms.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_DAYS_400_S: Final = 400 * 24 * 3600
_RAW_HEADERS: Final = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


class SecureHeaders:
    """Adds the headers to every answer, whatever made it. Pages are never stored by a cache."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message["headers"])
                names = {name.lower() for name, _ in given}
                added = [pair for pair in _RAW_HEADERS if pair[0] not in names]
                if b"cache-control" not in names:
                    added.append((b"cache-control", b"no-store"))
                message["headers"] = [*given, *added]
            await send(message)

        await self._app(scope, receive, with_headers)


class CookieNames:
    """The console's cookies. Under TLS their names let no other host or path set them (RFC 6265bis, `__Host-`)."""

    def __init__(self, *, secure: bool) -> None:
        prefix = "__Host-" if secure else ""
        self._secure = secure
        self.session = f"{prefix}tocsin_console"
        self.visitor = f"{prefix}tocsin_visitor"
        """For the form of the sign-in: there is no session yet."""
        self.theme = f"{prefix}tocsin_theme"

    def cookie(self, name: str, value: str, *, kept: bool = False) -> Cookie:
        """A cookie that no script reads and no other site sends. Unless it is `kept` it ends with the browser."""
        return Cookie(
            key=name,
            value=value,
            path="/",
            httponly=True,
            samesite="strict",
            secure=self._secure,
            max_age=_DAYS_400_S if kept else None,
        )

    def ended(self, name: str) -> Cookie:
        """A cookie that makes the browser forget the one of this name."""
        return Cookie(key=name, value="", path="/", httponly=True, samesite="strict", secure=self._secure, max_age=0)


def from_own_page(request: Request[Any, Any, Any], public_origin: str | None) -> bool:
    """Whether a page of the console sent the form. A browser says so in `Sec-Fetch-Site` and `Origin`; what sends
    neither is no browser of today, and has no cookie of anybody else."""
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    if origin is None:
        return True
    own = {f"http://{request.headers.get('host', '')}", f"https://{request.headers.get('host', '')}"}
    return origin == public_origin if public_origin else origin in own
