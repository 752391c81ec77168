"""The request handler of the control API: the inbox, the counters, and the fault script, over HTTP without TLS."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct

from tocsin.emulator.fault_injection import FaultInjector
from tocsin.emulator.faults import Script, describe, parse_script
from tocsin.emulator.inbox import Inbox
from tocsin.http2.messages import Header
from tocsin.http2.server import Exchange, Reply

_PATHS: Final = ("/inbox", "/stats", "/faults")
_HOST: Final = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9.-]+))(?::[0-9]*)?")


class _InboxQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The query parameters of `GET /inbox`."""

    token: str | None = None
    provider: str | None = None
    environment: str | None = None
    limit: Annotated[int, Meta(ge=0)] | None = None


class ControlHandler:
    """Answers `GET` and `DELETE /inbox`, `GET /stats`, and `GET`, `PUT` and `DELETE /faults`."""

    def __init__(self, inbox: Inbox, faults: FaultInjector, stats: Callable[[], dict[str, Any]]) -> None:
        self._inbox = inbox
        self._faults = faults
        self._stats = stats

    def __call__(self, exchange: Exchange) -> Reply:
        """Answer one request."""
        if not _is_for_this_machine(exchange.headers):
            return _json(403, {"error": "the control API is asked at localhost, 127.0.0.1 or [::1] only"})
        fields = dict(exchange.headers)
        path, _, query = fields[b":path"].decode("latin-1").partition("?")
        method = fields[b":method"].decode()
        match method, path:
            case "GET", "/inbox":
                return self._find(dict(parse_qsl(query, keep_blank_values=True)))
            case "DELETE", "/inbox":
                self._inbox.clear()
                return _json(200, {})
            case "GET", "/stats":
                return _json(200, self._stats())
            case "GET", "/faults":
                return _json(200, describe(self._faults.script) | {"acted": self._faults.counts()})
            case "PUT", "/faults":
                return self._put_faults(exchange.body)
            case "DELETE", "/faults":
                self._faults.replace(Script())
                return _json(200, {})
            case _, "/inbox" | "/stats" | "/faults":
                return _json(405, {"error": f"{path} does not support {method}"})
            case _:
                return _json(404, {"error": f"unknown path {path}; known are {', '.join(_PATHS)}"})

    def _find(self, query: dict[str, str]) -> Reply:
        try:
            wanted = msgspec.convert(query, _InboxQuery, strict=False)
        except msgspec.ValidationError as error:
            return _json(400, {"error": str(error)})
        found = self._inbox.find(
            token=wanted.token, provider=wanted.provider, environment=wanted.environment, limit=wanted.limit
        )
        return _json(200, found)

    def _put_faults(self, body: bytes) -> Reply:
        try:
            script = parse_script(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return _json(400, {"error": str(error)})
        self._faults.replace(script)
        return _json(200, describe(script))


def is_loopback(host: str) -> bool:
    """Whether a host name or an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_for_this_machine(headers: Sequence[Header]) -> bool:
    """Whether a request names this machine as its host.

    A web page can have its own name resolved to 127.0.0.1, and then read what is answered there (DNS rebinding). The
    browser still names that page's host.
    """
    hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
    found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    return found is not None and is_loopback(found["six"] or found["name"])


def _json(status: int, value: Any) -> Reply:
    return Reply(status, ((b"content-type", b"application/json"),), msgspec.json.encode(value) + b"\n")
