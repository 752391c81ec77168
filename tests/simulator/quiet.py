"""Quiet hours, days and weeks: now and then a few events, and nothing else, but at most one trouble that lasts.

What takes long comes to its end then: keys of an hour, provider tokens, access tokens, lifetimes of days, retention,
and a device whose provider complains of it for a week.

Nothing happens for most of the time, and that is skipped, when tocsin has nothing in hand, and nothing is on its way
that a connection that was given up may have left behind: tocsin and the providers stand still together for an hour or
two, and go on for a second, in which all that was due meanwhile is done.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Final

from msgspec.structs import replace

from tests.simulator import operators, producers
from tests.simulator.judge import ISOLATION_BOUND_S, Invariant
from tests.simulator.records import check_records
from tests.simulator.rows import Scope
from tests.simulator.troubles import Trouble, draw_trouble
from tests.simulator.world import World

_SKIPPED_S: Final = (1200.0, 9600.0)
_AWAKE_S: Final = 1.0
"""For so long time goes by between two skips: every duty that was due is done."""
_WITH_EVENTS: Final = 0.1
"""The share of these times with events."""
_MOST_EVENTS: Final = 3
_EVENTS_THAT_WAIT: Final = 4
_LOOK_EVERY_S: Final = 10 * 3600.0
"""What has ended is judged before the shortest retention has passed."""
_IN_HAND_S: Final = 15 * 60.0
"""Nothing stays in tocsin's hands for longer, as no fault lasts but those after which a delivery is parked."""
COMPLAINT: Final = "apns 400 DeviceTokenNotForTopic"
LASTING: Final = (
    *(COMPLAINT, "apns 400 TopicDisallowed", "apns 403 InvalidProviderToken"),
    *("fcm 401 THIRD_PARTY_AUTH_ERROR", "fcm 403 PERMISSION_DENIED", "apns 429 TooManyRequests"),
)
"""Troubles that may last for days: what somebody has to mend. Each is answered, so nothing is on its way for long."""
SCOPES: Final = (Scope.DEVICE, Scope.TOPIC, Scope.APPLICATION, Scope.PROVIDER)


async def quiet(world: World) -> None:
    """Some hours, days or weeks, as the plan has them."""
    random = world.random("quiet")
    until_s = world.loop.time() + world.plan.quiet_s * random.uniform(0.5, 1.5)
    trouble = await _lasting(world, random)
    world.trace("quiet", f"for {(until_s - world.loop.time()) / 3600:.1f} hours")
    look_s = world.loop.time() + _LOOK_EVERY_S
    while world.loop.time() < until_s:
        await _until_nothing_is_in_hand(world)
        world.skip(min(random.uniform(*_SKIPPED_S), until_s - world.loop.time()))
        await asyncio.sleep(_AWAKE_S)
        if random.random() < _WITH_EVENTS:
            await _hand_in(world, random, random.randint(1, _MOST_EVENTS))
        if world.loop.time() > look_s:
            await check_records(world, all_ended=False)
            look_s = world.loop.time() + _LOOK_EVERY_S
    if trouble is not None:
        world.end(trouble)
        if trouble.kills:
            await operators.mend_false_deaths(world, trouble)


async def _lasting(world: World, random: Random) -> Trouble | None:
    """Half of the quiet times have one, where the plan has any; events wait for its end, or for that of their life."""
    plan = world.plan
    if not plan.troubles or random.random() < 0.5:
        return None
    names, scopes = ((COMPLAINT,), (Scope.DEVICE,)) if plan.complaints else (LASTING, SCOPES)
    scope = random.choice(scopes)
    trouble = draw_trouble(random, scope, plan.bad_provider, world.phones, lambda row, _: row.name not in names)
    if trouble is None:
        return None
    assert trouble.rule is not None
    trouble.rule = replace(trouble.rule, rate=1.0)
    # After a week of complaints a device is in quarantine, until an operator releases it.
    trouble.kills = trouble.name == COMPLAINT
    world.begin(trouble)
    await _hand_in(world, random, _EVENTS_THAT_WAIT)
    return trouble


async def _hand_in(world: World, random: Random, count: int) -> None:
    await producers.hand_in_some(world, random, count)
    await asyncio.sleep(ISOLATION_BOUND_S + 1)


async def _until_nothing_is_in_hand(world: World) -> None:
    began_s = world.loop.time()
    while not world.process.has_nothing_in_hand or world.loop.time() < world.network.last_arrival_s:
        await asyncio.sleep(1)
        if world.loop.time() - began_s > _IN_HAND_S:
            lanes = [f"{one.name} {one.state}: {one.in_flight}, {one.waiting}" for one in world.process.lanes()]
            world.judge.violated(Invariant.DRAINS, f"something is in hand for {_IN_HAND_S:g} s: {'; '.join(lanes)}")
            return
