"""Which address a client has, and over which protocol it came, where proxies may stand in between.

Anybody can send `X-Forwarded-For`. It counts only in requests that come from a proxy which the settings name, and of
its entries only those that such proxies have added. Source: RFC 7239; MDN, "X-Forwarded-For", section on parsing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

IpNetwork = IPv4Network | IPv6Network

_CERTAIN: Final = "tocsin.address_is_certain"
_WITH_PORT: Final = re.compile(r"\[(?P<six>[0-9A-Fa-f:.]+)\](?::[0-9]+)?|(?P<four>[0-9.]+):[0-9]+")
_PAIR: Final = re.compile(r'\s*(?P<name>[A-Za-z-]+)=(?:"(?P<quoted>[^"]*)"|(?P<token>[^\s;,"]*))\s*')
_MOST_ENTRIES: Final = 32
"""Of a forwarding field, counted from its end: no request passes more proxies."""
_SITE_PREFIX_BITS: Final = 64


def client_address(scope: Any) -> str:
    """The address of the client that sent this request, as well as it is known; empty where there is none."""
    client = scope.get("client")
    return client[0] if client else ""


def address_is_certain(scope: Any) -> bool:
    """Whether limits may apply to `client_address`: it is not that of a proxy which the settings do not name."""
    return bool(scope.get("state", {}).get(_CERTAIN, False))


@lru_cache(maxsize=4096)
def counted_as(address: str) -> str:
    """What a limit by address counts: an IPv4 address, or the /64 network of an IPv6 address, as one site has all of
    that."""
    parsed = _address(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, _SITE_PREFIX_BITS), strict=False))
    return address if parsed is None else str(parsed)


class TrustedProxies:
    """The proxies that the settings name, and the header field in which they say for whom they ask.

    `networks` None: nobody has said whether there are any, so whose address it is that a request comes from is not
    certain. Empty: there are none.
    """

    def __init__(self, networks: Sequence[IpNetwork] | None, field: str = "x-forwarded-for") -> None:
        self._networks = tuple(networks or ())
        self._known = networks is not None
        self._field = field.encode()
        self._read = _of_forwarded if field == "forwarded" else _of_x_forwarded

    def includes(self, address: str) -> bool:
        """Whether one of them has this address."""
        parsed = _address(address)
        return parsed is not None and any(parsed in network for network in self._networks)

    def may_be_limited(self, peer: str) -> bool:
        """Whether a limit by address may apply to connections that come from `peer`."""
        return self._known and not self.includes(peer)

    def apply(self, scope: Any) -> None:
        """Put the client's address and scheme into the scope of a request, in place of those of its connection."""
        if not self._known:
            return
        certain, peer = True, client_address(scope)
        if self._networks and self.includes(peer):
            hops, scheme = self._read(self._field, scope["headers"])
            address, certain = self._client(peer, hops)
            scope["client"] = (address, 0)
            if scheme in ("http", "https"):
                scope["scheme"] = scheme
        scope.setdefault("state", {})[_CERTAIN] = certain

    def _client(self, peer: str, hops: Sequence[str]) -> tuple[str, bool]:
        """The last hop that is no proxy of ours, and whether that is certain. Each proxy has added the one before it
        to the end; what stands before the client's own address, the client may have written."""
        known = peer
        for hop in reversed(hops[-_MOST_ENTRIES:]):
            address = _address(hop)
            if address is None:  # `unknown`, a name that hides it (RFC 7239, 6), or nonsense
                return known, False
            known = str(address)
            if not self.includes(known):
                return known, True
        # A request of one of the proxies themselves (a health check), or the field is missing.
        return known, bool(hops)


def _of_x_forwarded(field: bytes, headers: Sequence[tuple[bytes, bytes]]) -> tuple[list[str], str]:
    """The addresses of `X-Forwarded-For`, the client's first, and the scheme of `X-Forwarded-Proto`."""
    scheme = ",".join(value.decode("latin-1") for name, value in headers if name == b"x-forwarded-proto")
    return _list_of(field, headers), scheme.strip().lower()


def _of_forwarded(field: bytes, headers: Sequence[tuple[bytes, bytes]]) -> tuple[list[str], str]:
    """The same of `Forwarded`: the `for` of each element, and the `proto` of the last."""
    hops, scheme = [], ""
    for element in _list_of(field, headers):
        pairs = {pair["name"].lower(): pair["quoted"] or pair["token"] or "" for pair in _PAIR.finditer(element)}
        hops.append(pairs.get("for", ""))
        scheme = pairs.get("proto", "").lower()
    return hops, scheme


def _list_of(field: bytes, headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
    values = [value.decode("latin-1") for name, value in headers if name == field]
    return [entry.strip() for entry in ",".join(values).split(",")] if values else []


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address, also with a port, as some proxies write it. One of IPv4 within IPv6 is that of IPv4."""
    if match := _WITH_PORT.fullmatch(text):
        text = match["six"] or match["four"]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            address = IPv6Address(int(address))
        return address.ipv4_mapped or address
    return address
