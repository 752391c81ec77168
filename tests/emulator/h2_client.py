"""An HTTP/2 client that records what the server sends. It uses `h2`, an implementation independent of tocsin's."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import h2.settings
import jwt
from h2.connection import ConnectionInputs, ConnectionState

Headers = Sequence[tuple[str, str]]


class Answer:
    """What the server sent on one stream: an answer, a reset, or nothing."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.field_names: list[str] = []
        """The names of all header fields as received, including repeated ones."""
        self.body = b""
        self.reset: int | None = None
        self.ended = asyncio.Event()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        return str(self.json["reason"]) if self.body else ""


class H2Client(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
        )
        # h2 treats GOAWAY as the end of the connection; by RFC 9113, 6.8 the earlier streams continue.
        machine: Any = self._h2.state_machine
        still_open = {(ConnectionState.CLIENT_OPEN, ConnectionInputs.RECV_GOAWAY): (None, ConnectionState.CLIENT_OPEN)}
        machine._transitions = machine._transitions | still_open
        self._transport: asyncio.Transport | None = None
        self._answers: dict[int, Answer] = {}
        self._next = 1
        self.goaways: list[int] = []
        """The last stream ids of the GOAWAY frames."""
        self.stream_limits: list[int] = []
        self.received = b""
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._h2.initiate_connection()
        self._write()

    def data_received(self, data: bytes) -> None:
        self.received += data
        for event in self._h2.receive_data(data):
            match event:
                case h2.events.ResponseReceived():
                    fields = {name.decode(): value.decode() for name, value in event.headers or []}
                    answer = self._answers[event.stream_id or 0]
                    answer.status, answer.headers = int(fields.pop(":status")), fields
                    answer.field_names = [name.decode() for name, _ in event.headers or []]
                case h2.events.DataReceived():
                    self._answers[event.stream_id or 0].body += event.data or b""
                case h2.events.StreamEnded():
                    self._answers[event.stream_id or 0].ended.set()
                case h2.events.StreamReset():
                    answer = self._answers[event.stream_id or 0]
                    answer.reset = event.error_code
                    answer.ended.set()
                case h2.events.ConnectionTerminated():
                    self.goaways.append(event.last_stream_id or 0)
                case h2.events.RemoteSettingsChanged():
                    changed = (event.changed_settings or {}).get(h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS)
                    if changed is not None:
                        self.stream_limits.append(changed.new_value)
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        for answer in self._answers.values():
            answer.ended.set()

    def send(self, headers: Headers, body: bytes = b"", trailers: Headers = ()) -> Answer:
        """Send a request without waiting for the answer."""
        stream_id, self._next = self._next, self._next + 2
        self._answers[stream_id] = answer = Answer()
        self._h2.send_headers(stream_id, list(headers), end_stream=not body)
        if body:
            self._h2.send_data(stream_id, body, end_stream=not trailers)
        if trailers:
            self._h2.send_headers(stream_id, list(trailers), end_stream=True)
        self._write()
        return answer

    async def ask(self, headers: Headers, body: bytes = b"", timeout_s: float = 5) -> Answer:
        answer = self.send(headers, body)
        await asyncio.wait_for(answer.ended.wait(), timeout_s)
        return answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _write(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._h2.data_to_send())


@asynccontextmanager
async def open_client(url: str, ca: Path, certificate: Path | None = None) -> AsyncIterator[H2Client]:
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(["h2"])
    if certificate is not None:
        context.load_cert_chain(certificate)
    parts = urlsplit(url)
    assert parts.hostname is not None
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(H2Client, parts.hostname, parts.port, ssl=context)
    try:
        yield protocol
    finally:
        protocol.close()
        async with asyncio.timeout(5):
            await protocol.closed.wait()


def provider_token(key: str, key_id: str, team_id: str = "39JSDKGJ38", *, age_s: float = 0, **more: Any) -> str:
    claims = {"iss": team_id, "iat": int(time.time() - age_s)} | more
    return "bearer " + jwt.encode(claims, key, "ES256", headers={"kid": key_id})
