"""The control API, on plain HTTP: what arrived, what was counted, which faults are in force."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from tocsin.emulator.faults import Faults, Script, describe, parse_script
from tocsin.emulator.inbox import Inbox
from tocsin.http2.server import Exchange, Reply


class ControlHandler:
    """`GET`/`DELETE /inbox`, `GET /stats`, `GET`/`PUT`/`DELETE /faults`."""

    def __init__(self, inbox: Inbox, faults: Faults) -> None:
        self._inbox = inbox
        self._faults = faults

    def __call__(self, exchange: Exchange) -> Reply:
        fields = dict(exchange.headers)
        url = urlsplit(fields[b":path"].decode("latin-1"))
        method = fields[b":method"].decode()
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        match method, url.path:
            case "GET", "/inbox":
                return self._find(query)
            case "DELETE", "/inbox":
                self._inbox.clear()
                return _json(200, {})
            case "GET", "/stats":
                return _json(200, self._inbox.stats())
            case "GET", "/faults":
                return _json(200, describe(self._faults.script))
            case "PUT", "/faults":
                return self._put_faults(exchange.body)
            case "DELETE", "/faults":
                self._faults.replace(Script())
                return _json(200, {})
            case _, "/inbox" | "/stats" | "/faults":
                return _json(405, {"error": f"{method} is not for {url.path}"})
            case _:
                return _json(404, {"error": f"no such page: {url.path}; there are /inbox, /stats and /faults"})

    def _find(self, query: dict[str, str]) -> Reply:
        unknown = sorted(query.keys() - {"token", "provider", "limit"})
        limit = query.get("limit", "1000")
        if unknown or not limit.isdigit():
            what = f"unknown parameter: {unknown[0]}" if unknown else "limit: must be a number"
            return _json(400, {"error": what})
        return _json(200, self._inbox.find(token=query.get("token"), provider=query.get("provider"), limit=int(limit)))

    def _put_faults(self, body: bytes) -> Reply:
        try:
            script = parse_script(body)
        except msgspec.MsgspecError as error:
            return _json(400, {"error": str(error)})
        self._faults.replace(script)
        return _json(200, describe(script))


def _json(status: int, value: Any) -> Reply:
    return Reply(status, [(b"content-type", b"application/json")], msgspec.json.encode(value) + b"\n")
