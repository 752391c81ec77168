"""A process that sends many requests to one server, and may send until shortly after the server stops reading: what a
node is that cannot reach its database any more.

    python -m tests.support.cut_off_sender https://localhost:PORT CA_FILE
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import uvloop

from tocsin.http2.dial import client_tls
from tocsin.http2.messages import Request
from tocsin.http2.network import SystemNetwork
from tocsin.http2.pool import Pool, PoolOptions

COUNT = 1000
BODY = b"x" * 8192
"""All of them are more than the kernel takes for one connection."""
FRESH_S = 0.5


async def main(url: str, ca_file: str) -> None:
    until = time.monotonic() + 60

    def may_send() -> bool:
        return time.monotonic() < until

    tls = client_tls(Path(ca_file))
    options = PoolOptions(max_connections=1)
    pool: Pool[Request] = Pool(url, lambda: tls, lambda _: None, options, network=SystemNetwork(), may_send=may_send)
    head = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", pool.authority), (b":path", b"/")]
    pool.send([Request(head, BODY) for _ in range(COUNT)])
    while not any(connection.room == 0 and connection.limit > 1 for connection in pool._connections):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    until = time.monotonic() + FRESH_S
    print("held", flush=True)
    await asyncio.sleep(60)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
