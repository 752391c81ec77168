"""Periodic duties: each with a name, a timer of its own, and the time at which it is next due.

A duty that fails is logged and done again within a second; it never ends the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import structlog

from tocsin.store.ports import WriteFailure

log = structlog.get_logger(__name__)

_AFTER_FAILURE_S: Final = 1.0

Action = Callable[[], Awaitable[float | None]]
"""What is done; it may return in how many seconds it is to be done again, in place of the duty's own period."""


class Duty:
    """`action` every `every_s` seconds, for the first time after `first_s`."""

    def __init__(self, name: str, every_s: float, action: Action, *, first_s: float | None = None) -> None:
        self.name = name
        self._every_s = every_s
        self._action = action
        self._first_s = every_s if first_s is None else first_s
        self._wake = asyncio.Event()
        self.due_at: float | None = None
        """When it is next due (event loop's time); None before it was started."""

    def now(self) -> None:
        """Do it now, not when it would be due."""
        self._wake.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self.due_at = loop.time() + self._first_s
        while True:
            await self._until_due(loop)
            self._wake.clear()
            wait_s = min(self._every_s, _AFTER_FAILURE_S)
            try:
                wait_s = await self._action() or self._every_s
            except WriteFailure as error:
                log.debug("store unavailable", duty=self.name, error=str(error))
            except Exception:
                log.exception("a periodic duty failed; it is done again", duty=self.name)
            self.due_at = loop.time() + wait_s

    async def _until_due(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self.due_at is not None
        try:
            async with asyncio.timeout_at(self.due_at):
                await self._wake.wait()
        except TimeoutError:
            pass


async def run_all(duties: Iterable[Duty]) -> None:
    """Do them until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        for duty in duties:
            tasks.create_task(duty.run(), name=duty.name)
