"""HTTP/1.1 for the same handlers as `server.py`, over httptools: what FCM and OAuth clients also speak."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final, cast

import httptools

from tocsin.http2.messages import Header
from tocsin.http2.server import Exchange, Handler, Reply

_MOST_BODY_BYTES: Final = 1024 * 1024
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


class Http1Connection(asyncio.Protocol):
    """One keep-alive connection; requests are answered in their order, one at a time."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._headers: list[Header] = []
        self._url = b""
        self._body = b""
        self._keep_alive = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            self.abort()
            raise error.__context__ or error from None
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    # -- httptools -----------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._headers, self._url, self._body = [], b"", b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > _MOST_BODY_BYTES:
            self.abort()

    def on_message_complete(self) -> None:
        self._keep_alive = self._parser.should_keep_alive()
        pseudo: list[Header] = [(b":method", self._parser.get_method()), (b":path", self._url)]
        exchange = Exchange(self, 1, pseudo + self._headers)
        exchange.body = self._body
        reply = self._handler(exchange)
        if reply is not None:
            self.answer(exchange, reply)

    # -- the part of ServerConnection that makes sense here ------------------------------------------------------------

    def answer(self, exchange: Exchange, reply: Reply) -> None:
        if self._transport is None:
            return
        self._transport.write(self._encode(reply))
        if not self._keep_alive:
            self._transport.close()

    def reset(self, exchange: Exchange, error_code: int) -> None:
        self.abort()

    def goaway(self, last_stream_id: int | None = None, error_code: int = 0, debug: bytes = b"") -> None:
        self._keep_alive = False

    def set_max_streams(self, limit: int) -> None:
        """There is but one."""

    def cut(self, exchange: Exchange, reply: Reply, *, keep_headers: bool) -> None:
        if self._transport is not None:
            encoded = self._encode(reply)
            end = len(encoded) - len(reply.body) // 2 if keep_headers else len(encoded) // 4
            self._transport.write(encoded[:end])
            self._transport.close()
            self._transport = None

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

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _encode(self, reply: Reply) -> bytes:
        phrase = _PHRASES.get(reply.status, "Unknown")
        lines = [b"HTTP/1.1 %d %s" % (reply.status, phrase.encode())]
        lines += [name + b": " + value for name, value in reply.headers]
        lines.append(b"content-length: %d" % len(reply.body))
        if not self._keep_alive:
            lines.append(b"connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n" + reply.body
