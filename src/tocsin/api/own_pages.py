"""Whether a request that carries a user's cookie was sent by a page that may use it.

Browsers attach cookies also to requests that pages of other sites send. Any such page could otherwise register a device
of its own for whoever visits it, and read their chat (cross-site request forgery). Browsers say where a request comes
from; apps, which are no pages, need not say anything. Source: Fetch, "Origin header"; W3C, "Fetch Metadata Request
Headers"; RFC 6454.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from litestar.types import HTTPScope

_OWN_SITES: Final = (b"same-origin", b"none")
_DEFAULT_PORTS: Final = {b"http": b":80", b"https": b":443"}


class OwnPages:
    """The pages that may use the cookie: those of the API's own address, and those of the origins listed in a setting.

    An origin that is listed needs no fitting `Sec-Fetch-Site`.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._listed = frozenset(origin.encode() for origin in origins)

    def sent(self, scope: HTTPScope) -> bool:
        """Whether one of these pages sent the request, or no page at all."""
        origins, sites, host = [], [], b""
        for name, value in scope["headers"]:
            if name == b"origin":
                origins.append(value.strip().lower())
            elif name == b"sec-fetch-site":
                sites.append(value.strip().lower())
            elif name == b"host":
                host = value.lower()
        if origins and all(origin in self._listed for origin in origins):
            return True
        return all(_is_at(origin, host) for origin in origins) and all(site in _OWN_SITES for site in sites)


def _is_at(origin: bytes, host: bytes) -> bool:
    """Whether the origin's host and port are those that the request names (`Host`). Its scheme may differ: a proxy in
    front of the API may speak TLS for it."""
    scheme, _, place = origin.partition(b"://")
    port = _DEFAULT_PORTS.get(scheme)
    return port is not None and place != b"" and place == host.removesuffix(port)
