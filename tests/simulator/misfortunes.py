"""Misfortune: what goes wrong every now and then, of the kinds that a plan has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final

from msgspec.structs import replace

from tests.simulator import operators, producers
from tests.simulator.model import Standing
from tests.simulator.phones import Phone
from tests.simulator.rows import NOT_FOR_TOPIC, Scope
from tests.simulator.troubles import Flooded, Trouble, draw_trouble, false_deaths
from tests.simulator.world import World
from tocsin.domain.devices import DeviceToken

_WRONG_BY_HOURS_S: Final = 16 * 60.0
_AFTER_A_FLOOD_S: Final = 90.0
_LAST_ANSWER_S: Final = 35.0
_STANDSTILLS: Final = frozenset({"disk", "io", "suspends"})
_STANDSTILL_S: Final = 4 * 60.0
"""So long a removal may wait to be written where the disk or the process stands still."""


async def misfortune(world: World) -> None:
    """Something goes wrong every now and then, of the kinds that the plan has."""
    plan, random = world.plan, world.random("misfortune")
    kinds = [kind for kind in _KINDS if kind in plan.troubles]
    if "crowds" in kinds:
        await _crowd(world, random)  # before anybody of the topic was reached
    while kinds and not world.stopping:
        await asyncio.sleep(random.expovariate(1 / plan.trouble_every_s))
        await _KINDS[random.choice(kinds)](world, random)


async def _rows(world: World, random: Random, scope: Scope) -> None:
    trouble = world.draw(random, scope)
    if trouble is not None:
        world.begin(trouble)
        world.loop.call_later(random.choice((1.0, 10.0, 40.0)) * random.uniform(0.5, 1.5), world.end, trouble)


async def _devices(world: World, random: Random) -> None:
    await _rows(world, random, Scope.DEVICE)


async def _topics(world: World, random: Random) -> None:
    await _rows(world, random, Scope.TOPIC)


async def _applications(world: World, random: Random) -> None:
    await _rows(world, random, Scope.APPLICATION)


async def _provider(world: World, random: Random) -> None:
    await _rows(world, random, Scope.PROVIDER)


async def _crowd(world: World, random: Random) -> None:
    """A provider says of all devices of a topic that they are not for it: the topic itself is wrong."""
    trouble = draw_trouble(
        random, Scope.TOPIC, "apns", world.phones, lambda row, _: row.name != f"apns 400 {NOT_FOR_TOPIC}"
    )
    if trouble is None:
        return
    assert trouble.rule is not None
    trouble.rule = replace(trouble.rule, rate=1.0)
    world.begin(trouble)
    await asyncio.sleep(random.uniform(10, 60))
    world.end(trouble)


async def _quota(world: World, random: Random) -> None:
    """A provider counts, for some minutes."""
    trouble = world.quotas.begin(random)
    if trouble is not None:
        world.loop.call_later(random.uniform(60, 200), world.end, trouble)


async def _deaths(world: World, random: Random) -> None:
    living = [one for one in world.model.standing(Standing.REGISTERED) if not one.phone.dead]
    if not living:
        return
    phone: Phone = random.choice(living).phone
    # Not in the middle of a registration: whether that came before or after the death would not be certain.
    if world.model.is_changing(phone):
        return
    found = await world.ask(lambda process: process.store.registry.find(DeviceToken(phone.token)))
    if found and not world.model.is_changing(phone):
        world.kill_phone(phone, max(device.registered_us for device in found) // 1000)


async def _network(world: World, random: Random) -> None:
    """The way to one provider: reset, silently dead, stalled, refused, unanswered."""
    plan, network = world.plan, world.network
    port = random.choice(world.ports[plan.bad_provider])
    what, seconds = random.choice(("resets", "silence", "stall", "refusal", "no answer")), random.uniform(1, 45)
    trouble = Trouble(
        name=f"network {what}",
        scope=Scope.PROVIDER,
        provider=plan.bad_provider,
        recovery_s=3 * 60.0,
        fails=True,
    )
    world.begin(trouble)
    if what == "resets":
        network.cut_all(port)
    elif what == "silence":
        network.swallow_all(port)
    elif what == "stall":
        network.stall(port, seconds)
    elif what == "refusal":
        network.refusing.add(port)
        world.loop.call_later(seconds, network.refusing.discard, port)
    else:
        network.cut_all(port)
        network.silent.add(port)
        world.loop.call_later(seconds, network.silent.discard, port)
    # A connection that is silently dead is found after a minute without a word, and ten seconds.
    world.loop.call_later(seconds + (75.0 if what == "silence" else 0.0), world.end, trouble)


async def _disk(world: World, random: Random) -> None:
    full, seconds = random.random() < 0.5, random.choice((1.0, 8.0, 25.0, 80.0)) * random.uniform(0.5, 1.5)
    name = "disk full" if full else "disk stalls"
    trouble = world.begin(Trouble(name=name, scope=Scope.EVERYTHING, recovery_s=20.0))

    def mend() -> None:
        world.disk.full = False
        world.end(trouble)

    if full:
        world.disk.full = True
    else:
        world.disk.stall(seconds)
    world.loop.call_later(seconds, mend)


async def _io(world: World, random: Random) -> None:
    """No commit succeeds."""
    trouble = world.begin(Trouble(name="I/O errors", scope=Scope.EVERYTHING, recovery_s=20.0))
    world.disk.failing = True
    await asyncio.sleep(random.choice((0.2, 2.0, 20.0, 60.0)) * random.uniform(0.5, 1.5))
    world.disk.failing = False
    world.end(trouble)


async def _suspend(world: World, random: Random) -> None:
    await world.suspend(random.choice((1.0, 1.0, 8.0, 8.0, 40.0, 150.0)) * random.uniform(0.5, 1.5))


async def _hours(world: World, random: Random) -> None:
    """Tocsin's clock alone is wrong by hours, until somebody sets it right."""
    trouble = Trouble(name="a clock that is wrong by hours", scope=Scope.EVERYTHING, recovery_s=_WRONG_BY_HOURS_S)
    world.begin(trouble)
    world.set_own_clock(random.choice((-1, 1)) * random.uniform(1, 5) * 3600)
    await asyncio.sleep(random.uniform(1, 60))
    world.set_own_clock(0.0)
    world.end(trouble)


async def _fuse(world: World, random: Random) -> None:
    """A provider calls tokens dead that live, until somebody notices; then the operator brings them back."""
    slow = bool(world.plan.troubles & _STANDSTILLS)
    trouble = false_deaths(
        random,
        world.plan.bad_provider,
        world.phones,
        world.clocks.provider_now_ms(),
        recovery_s=_LAST_ANSWER_S + (_STANDSTILL_S if slow else 0.0),
    )
    if trouble is None:
        return
    world.begin(trouble)
    await asyncio.sleep(random.uniform(5, 30))
    world.end(trouble)
    # Until the last answer that says so has come and is written, or its request has timed out.
    await asyncio.sleep(trouble.recovery_s)
    await operators.mend_false_deaths(world, trouble)


async def _flood(world: World, random: Random) -> None:
    urgent = random.random() < 0.5
    kind = Flooded.URGENT if urgent else Flooded.BULK
    trouble = Trouble(name=f"a flood of {kind}", scope=Scope.EVERYTHING, recovery_s=_AFTER_A_FLOOD_S, floods=kind)
    world.begin(trouble)
    await producers.flood(world, urgent=urgent)
    world.end(trouble)


async def _clock(world: World, random: Random) -> None:
    world.set_clock(random.uniform(-45, 45))


async def _crash(world: World, random: Random) -> None:
    await world.crash()


async def _restart(world: World, random: Random) -> None:
    await world.restart()


_KINDS: Final[dict[str, Callable[[World, Random], Coroutine[Any, Any, None]]]] = {
    "devices": _devices,
    "deaths": _deaths,
    "topics": _topics,
    "applications": _applications,
    "provider": _provider,
    "network": _network,
    "disk": _disk,
    "clock": _clock,
    "crashes": _crash,
    "restarts": _restart,
    "suspends": _suspend,
    "hours": _hours,
    "io": _io,
    "fuse": _fuse,
    "floods": _flood,
    "crowds": _crowd,
    "quotas": _quota,
}
