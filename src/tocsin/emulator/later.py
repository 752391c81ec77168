"""Answers at a later time, gathered by the millisecond: one timer for many."""

from __future__ import annotations

import asyncio

from tocsin.http2.server import Exchange, Reply


class Later:
    def __init__(self) -> None:
        self._due: dict[int, list[tuple[Exchange, Reply]]] = {}
        self._loop = asyncio.get_running_loop()

    def add(self, delay_s: float, exchange: Exchange, reply: Reply) -> None:
        millisecond = int((self._loop.time() + delay_s) * 1000) + 1
        bucket = self._due.get(millisecond)
        if bucket is None:
            bucket = self._due[millisecond] = []
            self._loop.call_at(millisecond / 1000, self._answer, millisecond)
        bucket.append((exchange, reply))

    def _answer(self, millisecond: int) -> None:
        for exchange, reply in self._due.pop(millisecond):
            exchange.reply(reply)
