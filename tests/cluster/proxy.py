"""Stands between one node and the database: cuts connections, goes silent, or swallows the answer of a commit."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Mapping

from tests.cluster.commits import Conversation


class Way(enum.Enum):
    """What becomes of connections."""

    OPEN = "open"
    CUT = "cut"
    """Those that there are have ended, and new ones end at once."""
    SILENT = "silent"
    """They stand, and nothing passes any more: as when a cable is pulled."""


class Proxy:
    """`ports` leads each port that it listens on to one of a server."""

    def __init__(self, leads_to: Mapping[int, int]) -> None:
        self._leads_to = leads_to
        self._listening: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._way = Way.OPEN
        self._passable = asyncio.Event()
        self._passable.set()
        self._to_swallow: dict[str, int] = {}
        self.swallowed: dict[str, int] = {}
        """How many answers, by what was committed."""

    @property
    def ports(self) -> list[int]:
        return list(self._leads_to)

    async def open(self) -> None:
        for port in self._leads_to:
            self._listening.append(await asyncio.start_server(self._connected(port), "127.0.0.1", port))

    async def close(self) -> None:
        for server in self._listening:
            server.close()
        self._end_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def set(self, way: Way) -> None:
        """From now on."""
        self._way = way
        if way is Way.CUT:
            self._end_all()
        if way is Way.SILENT:
            self._passable.clear()
        else:
            self._passable.set()

    def swallow(self, what: str, count: int) -> None:
        """Cut each connection on which one of the next `count` commits of this kind is answered, before the answer
        passes."""
        self._to_swallow[what] = self._to_swallow.get(what, 0) + count

    def swallow_no_more(self) -> None:
        self._to_swallow.clear()

    def _end_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _connected(self, port: int):  # type: ignore[no-untyped-def]
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                if self._way is not Way.CUT:
                    await self._passable.wait()
                    await self._pass(reader, writer, self._leads_to[port])
            except (OSError, EOFError, asyncio.CancelledError):
                pass
            finally:
                self._tasks.discard(task)
                writer.transport.abort()

        return connected

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
        conversation = Conversation()
        try:
            to_server = asyncio.create_task(self._to_server(conversation, reader, other_writer))
            to_client = asyncio.create_task(self._to_client(conversation, other_reader, writer))
            try:
                await asyncio.wait({to_server, to_client}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (to_server, to_client):
                    task.cancel()
                await asyncio.gather(to_server, to_client, return_exceptions=True)
        finally:
            other_writer.transport.abort()

    async def _to_server(
        self, conversation: Conversation, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(1 << 16):
            await self._passable.wait()
            conversation.client_sends(data)
            writer.write(data)
            await writer.drain()

    async def _to_client(
        self, conversation: Conversation, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        held = bytearray()
        while data := await reader.read(1 << 16):
            await self._passable.wait()
            committing = conversation.pending
            answered = conversation.server_sends(data)
            if committing is not None and self._to_swallow.get(committing, 0) > 0:
                if answered:
                    self._to_swallow[committing] -= 1
                    self.swallowed[committing] = self.swallowed.get(committing, 0) + 1
                    return
                held += data
                continue
            writer.write(bytes(held) + data)
            held.clear()
            with contextlib.suppress(ConnectionError):
                await writer.drain()
