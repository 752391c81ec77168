"""Carries the requests of the OAuth client (httpx) over the simulated network: HTTP/2 by tocsin's own pool.

Whatever host they are for, they go to the emulator: service accounts name Google's own, as tocsin asks no other.
"""

from __future__ import annotations

import asyncio
import ssl
from random import Random
from typing import Any, cast

import httpx

from tocsin.http2.messages import Header, Request
from tocsin.http2.network import Network
from tocsin.http2.pool import Pool, PoolOptions


class SimulatedHttp(httpx.AsyncBaseTransport):
    """One pool for the token endpoint; `HttpOAuthClient` closes its client after each exchange, the pool stays."""

    def __init__(self, network: Network, origin: str, options: PoolOptions, random: Random) -> None:
        self._network = network
        self._origin = origin
        self._options = options
        self._random = random
        self._pool: Pool[Any] | None = None
        self._waiting: dict[Request, asyncio.Future[Request]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        if self._pool is None:
            self._pool = Pool(
                self._origin,
                lambda: cast(ssl.SSLContext, None),
                self._finished,
                self._options,
                network=self._network,
                random=self._random.random,
            )
        headers: list[Header] = [
            (b":method", request.method.encode()),
            (b":scheme", b"https"),
            (b":authority", url.netloc),
            (b":path", url.raw_path),
            (b"content-type", b"application/x-www-form-urlencoded"),
        ]
        own = Request(headers, await request.aread())
        done = self._waiting[own] = asyncio.get_running_loop().create_future()
        try:
            self._pool.send([own])
            await done
        finally:
            self._waiting.pop(own, None)
        if own.failure is not None:
            raise httpx.ConnectError(own.failure.detail)
        return httpx.Response(own.status, stream=httpx.ByteStream(own.response_body))

    async def end(self) -> None:
        """Close the pool; `aclose` does not, as one client is opened for each exchange."""
        if self._pool is not None:
            await self._pool.close()

    def _finished(self, requests: list[Request]) -> None:
        for request in requests:
            done = self._waiting.get(request)
            if done is not None and not done.done():
                done.set_result(request)
