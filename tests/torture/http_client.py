"""A small HTTP/1.1 client whose connections can be cut at any byte.

Where there is no response it says whether the server can have seen the whole request.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

TIMEOUT_S: Final = 15.0


class Response(Struct, frozen=True):
    """A response; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class NoResponse(Exception):  # noqa: N818 (it says what is so)
    """The connection failed. `sent` is False where the server cannot have seen the whole request."""

    def __init__(self, detail: str, *, sent: bool) -> None:
        super().__init__(detail)
        self.sent = sent


class Client:
    """One connection at a time, kept open; a new one is opened when it fails: to the next of `ports`, where there are
    several."""

    def __init__(self, ports: int | Sequence[int], secret: str = "") -> None:
        self._ports = deque([ports] if isinstance(ports, int) else ports)
        self._secret = secret
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(
        self, method: str, path: str, body: bytes = b"", content_type: str = "application/json", *, secret: str = ""
    ) -> Response:
        """Send one request; returns the response.

        Raises:
            NoResponse: there was none.
        """
        return await self._exchange(self._request(method, path, body, content_type, secret), None)

    async def call_and_cut(self, method: str, path: str, body: bytes, content_type: str, rng: random.Random) -> None:
        """Send some or all of a request, and drop the connection without reading a response.

        Raises:
            NoResponse: always; it says whether the server can have seen all of it.
        """
        request = self._request(method, path, body, content_type, "")
        cut_at = len(request) if rng.random() < 0.5 else rng.randrange(1, len(request))
        await self._exchange(request, cut_at, rng.random() * 0.05)
        raise AssertionError("a cut connection cannot give a response")

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    def _request(self, method: str, path: str, body: bytes, content_type: str, secret: str) -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {secret or self._secret}\r\n"
        if body or method == "POST":
            head += f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n"
        return head.encode() + b"\r\n" + body

    async def _exchange(self, request: bytes, cut_at: int | None, linger_s: float = 0.0) -> Response:
        sent = False
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._ports[0])
                reader, writer = self._streams
                sent = cut_at is None or cut_at == len(request)
                writer.write(request[:cut_at])
                await writer.drain()
                if cut_at is not None:
                    await asyncio.sleep(linger_s)
                    raise NoResponse("cut on purpose", sent=sent)
                response = await _read(reader)
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.close()
            self._ports.rotate(-1)
            raise NoResponse(type(error).__name__, sent=sent) from None
        except BaseException:
            self.close()
            raise
        if response.headers.get("connection") == "close":
            self.close()
        return response


async def _read(reader: asyncio.StreamReader) -> Response:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    status = int(head[0].split(" ")[1])
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Response(status, headers, body)
