"""Runs one seed with several nodes: as `tests.simulator.run`, with what several nodes have beside."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, Final, cast

from tests.simulator.judge import Invariant
from tests.simulator.nodes.misfortunes import misfortune
from tests.simulator.nodes.node import NodesLoop
from tests.simulator.nodes.plan import NodesPlan, make_plan
from tests.simulator.nodes.world import NodesWorld
from tests.simulator.run import Run, Simulation, simulated
from tests.simulator.world import World

DRAIN_BOUND_S: Final = 150.0
"""So long after the last fault everything has its end: no provider is to blame, so nothing waits for long. Where lanes
are narrow, it is longer by what they need for what they have to send."""
_NARROW_PER_S: Final = 5.0
"""Pushes, as a provider takes a fifth to three fifths of a second for one, of which two are under way."""


def run_seed(
    seed: int, *, plan: NodesPlan | None = None, keep_all: bool = False, most_callbacks: int | None = None
) -> Run:
    """One simulation; see `tests.simulator.run.run_seed`."""
    loop = NodesLoop(Random(f"{seed}:loop"))
    return simulated(NodesSimulation, loop, plan or make_plan(seed), keep_all=keep_all, most_callbacks=most_callbacks)


class NodesSimulation(Simulation):
    producers = 6
    """Some of them wait for a node that does not answer."""

    def _make_world(self) -> World:
        return NodesWorld(cast(NodesPlan, self._plan), self._directory, self.trace, self._secrets)

    def _misfortune(self, world: World) -> Any:
        return misfortune(cast(NodesWorld, world))

    async def _end(self, world: World) -> None:
        for node in cast(NodesWorld, world).nodes:
            await node.kill()

    def _is_alive(self, world: World) -> bool:
        return any(node.alive for node in cast(NodesWorld, world).nodes)

    async def _drain(self, world: World) -> None:
        nodes, began_s = cast(NodesWorld, world), self._loop.time()
        bound_s = DRAIN_BOUND_S
        if nodes.plan.narrow:
            bound_s += len(nodes.waits()) * nodes.plan.most_phones / _NARROW_PER_S
        while left := nodes.waits():
            if self._loop.time() - began_s > bound_s:
                what = f"{len(left)} things are left {bound_s:.0f} s after the last fault: {left[:3]}"
                world.judge.violated(Invariant.DRAINS, what)
                return
            await asyncio.sleep(1)
        self._drained_s = self._loop.time() - began_s

    async def _search(self, world: World) -> None:
        """There is no search on the model of the database."""
