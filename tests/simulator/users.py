"""Users: they register their phones, again, somebody else's, and delete them."""

from __future__ import annotations

import asyncio
from typing import Final

from tests.simulator.api import push_body
from tests.simulator.judge import Invariant
from tests.simulator.model import Registered, Standing
from tests.simulator.phones import make_phone, owner_of
from tests.simulator.world import World

_KNOWN_WITHIN_S: Final = 1.0
"""An application to which one node was given a credential is known to all of them."""


async def register(world: World, one: Registered) -> None:
    phone, began_s = one.phone, world.loop.time()
    world.model.registering(one)
    world.judge.phone_changed(phone)
    world.revive(phone)
    session, body = world.secrets.sessions[one.owner], push_body(phone, "add")
    while failure := await world.request("POST", "/api/push", session, body):
        if world.loop.time() > began_s + _KNOWN_WITHIN_S:
            world.judge.violated(Invariant.ANSWERS, f"{phone!r} of {one.owner} cannot be registered: {failure}")
        await asyncio.sleep(0.1)
    world.model.was_registered(one)
    world.trace("user", f"{one.owner[-4:]} has registered {phone!r}")


async def delete(world: World, one: Registered) -> None:
    phone = one.phone
    world.model.deleting(one)
    world.judge.phone_changed(phone)
    await world.request("POST", "/api/push", world.secrets.sessions[one.owner], push_body(phone, "delete"))
    world.model.was_deleted(one)
    world.trace("user", f"{one.owner[-4:]} has deleted {phone!r}")


async def register_everybody(world: World) -> None:
    plan, random = world.plan, world.random("phones")
    counts = [random.randint(1, plan.most_phones) for _ in range(plan.owners)] + [plan.rich_phones] * plan.rich_owners
    for owner, count in enumerate(counts):
        for _ in range(count):
            phone = make_phone(
                len(world.phones),
                random,
                wrong_environment=plan.wrong_environments,
                two_projects=plan.two_projects,
                one_topic="crowds" in plan.troubles,
            )
            world.phones.append(phone)
            await register(world, world.model.of(owner_of(owner), phone))
    world.apply()


async def users(world: World) -> None:
    """Register anew, register again, register somebody else's phone, delete."""
    random = world.random("users")
    owners = world.plan.owners + world.plan.rich_owners
    while not world.stopping:
        await asyncio.sleep(random.expovariate(1 / 4))
        owner, phone = owner_of(random.randrange(owners)), random.choice(world.phones)
        action, mine = random.random(), world.model.standing(Standing.REGISTERED)
        if action < 0.4 and mine:
            await delete(world, random.choice(mine))
        elif action < 0.7:
            one = world.model.of(owner, phone)
            if one.standing is not Standing.CHANGING or not one.asked_s:
                await _register_if_it_may(world, one)
        elif gone := world.model.standing(Standing.GONE):
            await _register_if_it_may(world, random.choice(gone))


async def _register_if_it_may(world: World, one: Registered) -> None:
    # A registration is compared with the time at which the provider has seen the token die: clocks that differ, or
    # one that was set in between, would tell tocsin the wrong order.
    if world.clocks_agree or one.phone.dead_from_s is None:
        await register(world, one)
