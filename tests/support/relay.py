"""What stands between tocsin and a peer copies bytes."""

from __future__ import annotations

import asyncio


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All that comes, until its end, which is passed on."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
