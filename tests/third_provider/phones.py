"""Phones that take encrypted posts over TLS and HTTP/2."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tocsin.emulator.credentials import write_credentials
from tocsin.emulator.tls_contexts import server_context
from tocsin.http2.network import SystemNetwork
from tocsin.http2.server import Exchange, Reply, ServerConnection


class Phones:
    def __init__(self, url: str, ca: Path) -> None:
        self.url = url
        self.ca = ca
        self.keys: dict[str, str] = {}
        """By token, in hex."""
        self.received: list[tuple[str, dict[str, Any]]] = []
        """Token and event, decrypted."""
        self.take_as: dict[str, str] = {}
        """Under which token a phone knows itself, where its path says another."""
        self.answer: Callable[[str], Reply | None] = lambda token: None
        """What to answer to a post for this token; None takes it."""

    def take(self, exchange: Exchange) -> Reply:
        headers = dict(exchange.headers)
        token = headers[b":path"].rsplit(b"/", 1)[-1].decode()
        if headers.get(b"authorization") != b"Bearer secret":
            return Reply(401)
        if (reply := self.answer(token)) is not None:
            return reply
        sealed = msgspec.json.decode(exchange.body)
        opened = AESGCM(bytes.fromhex(self.keys[token])).decrypt(
            bytes.fromhex(sealed["nonce"]), bytes.fromhex(sealed["encrypted"]), self.take_as.get(token, token).encode()
        )
        self.received.append((token, msgspec.json.decode(opened)))
        return Reply(201)

    async def have_received(self, count: int, timeout_s: float = 10) -> None:
        async with asyncio.timeout(timeout_s):
            while len(self.received) < count:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running_phones(directory: Path) -> AsyncIterator[Phones]:
    files = write_credentials(directory)
    phones: list[Phones] = []
    tls = server_context(files, http1=False, requests_client_certificate=False, fails_handshake=lambda: False)
    listener = await SystemNetwork().listen(
        lambda: ServerConnection(lambda exchange: phones[0].take(exchange)), "127.0.0.1", 0, tls
    )
    phones.append(Phones(f"https://localhost:{listener.port}", files.ca))
    try:
        yield phones[0]
    finally:
        listener.close()
