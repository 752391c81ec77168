"""The server's side of an HTTP/1.1 connection, over httptools: FCM and OAuth clients speak it, too."""

from __future__ import annotations

import asyncio
from collections import deque
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
from msgspec import Struct

from tocsin.http2.exchange import Exchange, Handler, Reply
from tocsin.http2.messages import Header

_MOST_BODY_BYTES: Final = 1024 * 1024
_MOST_DISCARDED_BYTES: Final = 64 * 1024 * 1024
"""So much of a body that is too large is read before the connection is closed: a client that has not sent all of it may
not read the answer."""
_MOST_WAITING: Final = 1000
_TOO_LARGE: Final = Reply(413)
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_OF_AN_UPGRADE: Final = (b"connection", b"upgrade", b"http2-settings")


class _Request(Struct, frozen=True):
    """A complete request. `last`: the client wants the connection closed after its answer. `too_large`: its body was
    discarded."""

    exchange: Exchange
    last: bool
    too_large: bool


class Http1Connection(asyncio.Protocol):
    """An `exchange.ServedConnection` over HTTP/1.1; requests are answered in order, one at a time, each as stream 1.

    Args:
        handler: gets each complete request.
        registry: contains this connection while it is open.
    """

    def __init__(self, handler: Handler, registry: set[asyncio.Protocol] | None = None) -> None:
        self._handler = handler
        self._registry = registry
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._headers: list[Header] = []
        self._head_complete = False
        self._url = b""
        self._body = b""
        self._discarded_bytes = 0
        self._waiting: deque[_Request] = deque()
        self._current: Exchange | None = None
        self._last = False
        """The answer to the current request ends the connection."""
        self.requests = 0
        self.newest_handled = 0
        """Always below the current request: over HTTP/1.1, one that is not answered can still be refused."""
        self.peer_certificate: bytes | None = None
        self.state: dict[str, Any] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._registry is not None:
            self._registry.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            self.abort()
            raise error.__context__ or error from None
        except httptools.HttpParserError:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        if self._registry is not None:
            self._registry.discard(self)

    # -- httptools -----------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._headers, self._url, self._body = [], b"", b""
        self._head_complete, self._discarded_bytes = False, 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_complete:
            return  # a trailer
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._head_complete = True
        idle = self._transport is not None and self._current is None and not self._parser.should_upgrade()
        if idle and any(name == b"expect" and value.lower() == b"100-continue" for name, value in self._headers):
            self._write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        if not self._discarded_bytes and len(self._body) + len(body) <= _MOST_BODY_BYTES:
            self._body += body
            return
        self._discarded_bytes += len(self._body) + len(body)
        self._body = b""
        if self._discarded_bytes > _MOST_DISCARDED_BYTES:
            self.abort()

    def on_message_complete(self) -> None:
        if self._transport is None or self._parser.should_upgrade():
            return
        if len(self._waiting) >= _MOST_WAITING:
            self.abort()
            return
        pseudo: list[Header] = [(b":method", self._parser.get_method()), (b":path", self._url)]
        exchange = Exchange(self, 1, pseudo + self._headers, self._body)
        last = not self._parser.should_keep_alive()
        self._waiting.append(_Request(exchange, last, too_large=self._discarded_bytes > 0))
        self._handle_next()

    # -- exchange.ServedConnection -------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return len(self._waiting) + (self._current is not None)

    def answer(self, exchange: Exchange, reply: Reply) -> None:
        if exchange is self._current:
            self._finish(reply)
            self._handle_next()

    def reset(self, exchange: Exchange, error_code: int) -> None:
        self.abort()

    def goaway(self, last_stream_id: int | None = None, error_code: int = 0, debug: bytes = b"") -> None:
        """The current request is the last; with `last_stream_id`, which is below it, that is not answered either."""
        if last_stream_id is not None:
            self.close()
        self._last = True

    def goaway_gracefully(self) -> None:
        self.goaway()

    def set_max_streams(self, limit: int) -> None:
        """Ignored: HTTP/1.1 has one request at a time."""

    def cut(self, exchange: Exchange, reply: Reply, *, keep_headers: bool) -> None:
        encoded = self._encode(reply)
        self._write(encoded[: len(encoded) - len(reply.content) // 2 if keep_headers else len(encoded) // 4])
        self.close()

    def pause_reading(self, seconds: float) -> None:
        transport = self._transport
        if transport is not None and transport.is_reading():
            transport.pause_reading()
            asyncio.get_running_loop().call_later(
                seconds, lambda: None if transport.is_closing() else transport.resume_reading()
            )

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._forget()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._forget()

    # -- within --------------------------------------------------------------------------------------------------------

    def _handle_next(self) -> None:
        while self._waiting and self._current is None:
            request = self._waiting.popleft()
            self._current, self._last = request.exchange, request.last
            self.requests += 1
            reply = _TOO_LARGE if request.too_large else self._handler(request.exchange)
            if reply is not None and self._current is not None:
                self._finish(reply)

    def _finish(self, reply: Reply) -> None:
        self._write(self._encode(reply))
        self._current = None
        if self._last:
            self.close()

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the request again without its offer of another protocol, which a server may ignore (RFC 9110, 7.8).

        Java's HttpClient offers HTTP/2 to every plain address, and httptools takes the body for the other protocol's.
        """
        method = self._parser.get_method()
        if method == b"CONNECT":
            self.abort()
            return
        kept = [b"%b: %b\r\n" % header for header in self._headers if header[0] not in _OF_AN_UPGRADE]
        head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, self._url, b"".join(kept))
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(head + rest)

    def _forget(self) -> None:
        self._transport = self._current = None
        self._waiting.clear()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _encode(self, reply: Reply) -> bytes:
        phrase = _PHRASES.get(reply.status, "Unknown")
        lines = [b"HTTP/1.1 %d %s" % (reply.status, phrase.encode())]
        lines += [name + b": " + value for name, value in reply.headers]
        if reply.status != 204:  # RFC 9110, 8.6
            lines.append(b"content-length: %d" % len(reply.content))
        if self._last:
            lines.append(b"connection: close")
        head = b"\r\n".join(lines) + b"\r\n\r\n"
        to_head = self._current is not None and self._current.headers[0][1] == b"HEAD"
        return head if to_head else head + reply.content
