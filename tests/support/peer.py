"""A server on this machine whose handler a test writes, and a pool towards it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tocsin.emulator.credentials import write_credentials
from tocsin.http2.dial import client_tls
from tocsin.http2.messages import Request
from tocsin.http2.network import SystemNetwork
from tocsin.http2.pool import Pool, PoolOptions
from tocsin.http2.server import Exchange, Reply, ServerConnection, Switch


class Asked(Request, kw_only=True, eq=False, gc=False):
    """A request that remembers its path."""

    path: str


class Peer:
    """A server whose handler a test writes; it keeps its connections, so that a test can act on them."""

    def __init__(self) -> None:
        self.connections: list[ServerConnection] = []
        self.handler: Callable[[Exchange], Reply | None] = lambda exchange: Reply(200, [], b"ok")
        self.max_streams = 100
        self.url = ""
        self.ca = Path()

    def pool(
        self,
        may_send: Callable[[], bool] = lambda: True,
        unsent: Callable[[list[Asked]], None] | None = None,
        **options: object,
    ) -> tuple[Pool[Asked], asyncio.Queue[Asked]]:
        answers: asyncio.Queue[Asked] = asyncio.Queue()

        def done(requests: list[Asked]) -> None:
            for request in requests:
                answers.put_nowait(request)

        tls = client_tls(self.ca)
        limits = PoolOptions(**options)  # type: ignore[arg-type]
        network = SystemNetwork()
        pool = Pool(self.url, lambda: tls, done, limits, network=network, may_send=may_send, unsent=unsent)
        return pool, answers


@asynccontextmanager
async def listening(tmp_path: Path, peer: Peer) -> AsyncIterator[Peer]:
    files = write_credentials(tmp_path / "peer")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server)
    context.set_alpn_protocols(["h2"])

    def choose(alpn: str | None, certificate: bytes | None) -> ServerConnection:
        made = ServerConnection(lambda exchange: peer.handler(exchange), max_streams=peer.max_streams)
        peer.connections.append(made)
        return made

    server = await asyncio.get_running_loop().create_server(lambda: Switch(choose), "127.0.0.1", 0, ssl=context)
    peer.url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    peer.ca = files.ca
    try:
        yield peer
    finally:
        for connection in peer.connections:
            connection.abort()
        server.close()


def request(pool: Pool[Asked], path: str = "/") -> Asked:
    head = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", pool.authority), (b":path", path.encode())]
    return Asked(head, b"body", path=path)


async def gather(answers: asyncio.Queue[Asked], count: int, timeout_s: float = 10) -> list[Asked]:
    async with asyncio.timeout(timeout_s):
        return [await answers.get() for _ in range(count)]
