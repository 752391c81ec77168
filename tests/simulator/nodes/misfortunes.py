"""What befalls nodes and their database every now and then, of the kinds that a plan has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final

from tests.simulator import misfortunes
from tests.simulator.nodes.world import NodesWorld, any_node, trouble_of, trouble_of_all
from tests.simulator.rows import Scope
from tests.simulator.troubles import draw_trouble

_KEEPS_ITS_LOGS_S: Final = 6.0
"""A node that stands still, or is cut off, for longer loses its logs to the others."""


async def misfortune(world: NodesWorld) -> None:
    """Something goes wrong every now and then; a second thing may begin before the first is over."""
    plan, random = world.plan, world.random("misfortune")
    kinds = [kind for kind in KINDS if kind in plan.troubles]
    going_on: set[asyncio.Task[None]] = set()
    while kinds and not world.stopping:
        await asyncio.sleep(random.expovariate(1 / plan.trouble_every_s))
        going_on = {one for one in going_on if not one.done()}
        if len(going_on) < world.plan.nodes - 1:
            going_on.add(world.loop.create_task(KINDS[random.choice(kinds)](world, random)))
    for one in going_on:
        await one


def _some_seconds(random: Random) -> float:
    return random.choice((0.5, 2.0, _KEEPS_ITS_LOGS_S, 2 * _KEEPS_ITS_LOGS_S, 25.0)) * random.uniform(0.5, 1.5)


async def _suspend(world: NodesWorld, random: Random) -> None:
    """A node stands still, for longer than its logs are left to it, and goes on."""
    if (node := any_node(world, random)) is not None:
        trouble = world.begin(trouble_of(node, "is suspended"))
        await world.stand_still(node, _some_seconds(random))
        world.end(trouble)


async def _crash(world: NodesWorld, random: Random) -> None:
    if (node := any_node(world, random)) is not None:
        trouble = world.begin(trouble_of(node, "crashed"))
        await world.replace(node, in_order=False, away_s=random.choice((0.1, 3.0, 12.0)) * random.random())
        world.end(trouble)


async def _cut(world: NodesWorld, random: Random) -> None:
    """Nothing comes from a node to the database, nor back. Its locks may be free at once, as after a failover."""
    if (node := any_node(world, random)) is not None:
        trouble = world.begin(trouble_of(node, "is cut off from the database"))
        seconds = _some_seconds(random)
        world.repeats()
        node.way.cut(seconds, ends=random.random() < 0.5)
        await asyncio.sleep(seconds)
        world.repeats()
        world.end(trouble)


async def _drop(world: NodesWorld, random: Random) -> None:
    """All connections of a node to the database are reset."""
    if (node := any_node(world, random)) is not None:
        trouble = world.begin(trouble_of(node, "has its connections reset"))
        world.repeats()
        node.way.drop_all()
        await asyncio.sleep(1)
        world.repeats()
        world.end(trouble)


async def _swallow(world: NodesWorld, random: Random) -> None:
    """The answer to a commit is lost, with its connection."""
    if (node := any_node(world, random)) is not None:
        trouble = world.begin(trouble_of(node, "loses an answer"))
        node.way.swallows_next = world.repeats
        await asyncio.sleep(random.uniform(0.1, 2))
        world.repeats()
        world.end(trouble)


async def _away(world: NodesWorld, random: Random) -> None:
    """The database restarts."""
    trouble = world.begin(trouble_of_all("the database is away"))
    world.repeats()
    world.database.go_down(lambda: random.random() < 0.5)
    await asyncio.sleep(_some_seconds(random))
    world.database.come_up()
    world.repeats()
    world.end(trouble)


async def _end_sessions(world: NodesWorld, random: Random) -> None:
    """An administrator ends some sessions."""
    trouble = world.begin(trouble_of_all("sessions are ended"))
    world.repeats()
    backends = list(world.database.backends.values())
    for backend in random.sample(backends, random.randint(0, len(backends))):
        world.database.terminate(backend)
    await asyncio.sleep(1)
    world.repeats()
    world.end(trouble)


async def _rolling(world: NodesWorld, random: Random) -> None:
    """Each node is stopped in order and started again, one after the other."""
    trouble = world.begin(trouble_of_all("a rolling restart"))
    for at in range(len(world.nodes)):
        node = world.nodes[at]
        if node.alive and not node.is_suspended:
            await world.replace(node, in_order=True)
            await asyncio.sleep(random.uniform(0, 3))
    world.end(trouble)


async def _clock(world: NodesWorld, random: Random) -> None:
    """The database's clock, and the providers', are set."""
    world.set_clock(random.uniform(-45, 45))


async def _deaths(world: NodesWorld, random: Random) -> None:
    await misfortunes._deaths(world, random)


async def _refusals(world: NodesWorld, random: Random) -> None:
    """A provider refuses what is for some devices: dead letters, which an operator replays and discards."""
    provider = random.choice(("apns", "fcm"))
    trouble = draw_trouble(random, Scope.DEVICE, provider, world.phones, lambda row, scope: not row.refuses)
    if trouble is not None:
        world.begin(trouble)
        await asyncio.sleep(random.uniform(1, 20))
        world.end(trouble)


KINDS: Final[dict[str, Callable[[NodesWorld, Random], Coroutine[Any, Any, None]]]] = {
    "suspends": _suspend,
    "crashes": _crash,
    "cuts": _cut,
    "drops": _drop,
    "swallowed": _swallow,
    "away": _away,
    "ended": _end_sessions,
    "rolling": _rolling,
    "clocks": _clock,
    "deaths": _deaths,
    "letters": _refusals,
}
