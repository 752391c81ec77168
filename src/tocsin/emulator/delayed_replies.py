"""Sends replies after a delay. Replies that are due within the same millisecond share one timer."""

from __future__ import annotations

import asyncio

from tocsin.http2.server import Exchange, Reply


class DelayedReplies:
    """The replies that are not due yet. Must be created while the event loop runs, whose time it uses."""

    def __init__(self) -> None:
        self._due: dict[int, list[tuple[Exchange, Reply]]] = {}
        self._loop = asyncio.get_running_loop()

    def add(self, delay_s: float, exchange: Exchange, reply: Reply) -> None:
        """Answer `exchange` with `reply` in `delay_s` seconds, rounded up to the next millisecond."""
        millisecond = int((self._loop.time() + delay_s) * 1000) + 1
        replies = self._due.get(millisecond)
        if replies is None:
            replies = self._due[millisecond] = []
            self._loop.call_at(millisecond / 1000, self._send, millisecond)
        replies.append((exchange, reply))

    def _send(self, millisecond: int) -> None:
        for exchange, reply in self._due.pop(millisecond):
            exchange.reply(reply)
