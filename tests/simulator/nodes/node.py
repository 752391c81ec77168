"""One life of one node: the process of other simulations, with the store on PostgreSQL on the model of a database."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Coroutine
from pathlib import Path
from random import Random
from typing import Any, Final, cast

from tests.simulator.loop import LIFE, VirtualLoop
from tests.simulator.model_store.way import SimulatedWay
from tests.simulator.process import Outside, Process, ProcessOptions
from tocsin.store.master_keys import KeyText
from tocsin.store.ports import StorageFailure
from tocsin.store.postgres.opening import open_store
from tocsin.store.postgres.options import PostgresOptions
from tocsin.store.postgres.store import PostgresStore

MASTER_KEY: Final = base64.b64encode(bytes(range(32))).decode()
_CLOSE_S: Final = 5.0
_TRY_AGAIN_S: Final = 0.5


class NodesLoop(VirtualLoop):
    """Knows of each task whose it is: several lives run at once."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self._lives: dict[asyncio.Task[Any], str] = {}

    def create_task(self, coro: Coroutine[Any, Any, Any], **arguments: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        task = super().create_task(coro, **arguments)
        context = arguments.get("context")
        self._lives[task] = LIFE.get() if context is None else context.get(LIFE, "")
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        super()._forget(task)
        self._lives.pop(task, None)

    def tasks_of(self, life: str) -> list[asyncio.Task[Any]]:
        return [task for task, whose in self._lives.items() if whose == life]


class Node(Process):
    def __init__(self, options: ProcessOptions, outside: Outside, way: SimulatedWay, name: str) -> None:
        super().__init__(options, outside, Path(), name)
        self.way = way
        self._tasks = cast(NodesLoop, self._loop)

    async def _open(self, random: Random) -> PostgresStore:
        options, clocks = self._options, self._outside.clocks
        given = PostgresOptions(
            url="postgresql://model/tocsin",
            max_events=options.max_backlog_events,
            max_bytes=options.max_backlog_bytes,
            lease_s=options.lease_s,
            keys=KeyText("the simulation's key", lambda: MASTER_KEY),
            say=lambda sentence: None,
            chain=self._name,
            search=False,
            monotonic=clocks.monotonic,
            host_clock=clocks.wall,
            random=random,
            dial=self.way.dial,
            node_name=lambda: self._name,
        )
        while True:
            try:
                return await open_store(given, server=True)
            except StorageFailure:
                await asyncio.sleep(_TRY_AGAIN_S)

    @property
    def is_suspended(self) -> bool:
        return self._loop.is_suspended(self.life)

    @property
    def tasks(self) -> int:
        return len(self._own_tasks())

    async def stop(self) -> bool:
        self.alive = False  # nobody asks it for anything new
        return await super().stop()

    async def _stop(self) -> bool:
        settled = await super()._stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self.store.close()
        return settled

    def _lose_storage(self) -> None:
        """What was on its way to the database arrives."""
        self.way.die()

    def _own_tasks(self) -> list[asyncio.Task[Any]]:
        return self._tasks.tasks_of(self.life)

    async def _close_dead_store(self) -> None:
        """Nothing is to be closed: its connections are gone."""
