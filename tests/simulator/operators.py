"""An operator: replaces credentials, replays and discards dead letters, and brings back what a provider took away."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, Final

import msgspec

from tests.simulator.model import Standing
from tests.simulator.phones import APPLICATIONS, OTHER_PROJECT
from tests.simulator.rows import Scope
from tests.simulator.troubles import Trouble
from tests.simulator.world import World
from tocsin.domain.credentials import Credential

_MOST_LETTERS: Final = 20
_REPLAYED_LIVE_S: Final = 120

# -- credentials -------------------------------------------------------------------------------------------------------


async def put_credentials(world: World) -> None:
    credentials = [world.apns_credential(application) for application in APPLICATIONS]
    others = [world.fcm_credential(project=OTHER_PROJECT)] if world.plan.two_projects else []
    for credential in [*credentials, world.fcm_credential(), *others]:
        await _put(world, credential)


async def credentials(world: World) -> None:
    """Replace credentials: by others that are right, which nobody may notice, and by wrong ones, until it is seen."""
    random = world.random("operator")
    while not world.stopping:
        await asyncio.sleep(random.expovariate(1 / 25))
        application = random.choice(APPLICATIONS)
        if random.random() < 0.5:
            spare = random.random() < 0.5
            world.trace("operator", f"replaces the key of {application}")
            await _put(world, world.apns_credential(application, spare=spare))
        elif world.plan.bad_provider == "fcm" and random.random() < 0.5:
            await _wrong_for_a_while(
                world,
                random,
                Trouble(name="wrong service account", scope=Scope.PROVIDER, provider="fcm", recovery_s=60.0),
                world.fcm_credential(wrong=True),
                world.fcm_credential(),
            )
        else:
            await _wrong_for_a_while(
                world,
                random,
                Trouble(name="wrong key", scope=Scope.APPLICATION, application=application, recovery_s=60.0),
                world.apns_credential(application, wrong=True),
                world.apns_credential(application),
            )


async def _wrong_for_a_while(
    world: World, random: Random, trouble: Trouble, wrong: Credential, right: Credential
) -> None:
    world.begin(trouble)
    await _put(world, wrong)
    await asyncio.sleep(random.uniform(1, 60))
    await _put(world, right)
    world.end(trouble)


async def _put(world: World, credential: Credential) -> None:
    wakes = world.judge.waits.brought_forward
    wakes.append(world.loop.time())
    await world.ask(lambda process: process.store.credentials.put(credential))
    wakes.append(world.loop.time())


# -- dead letters ------------------------------------------------------------------------------------------------------


async def letters(world: World) -> None:
    """Replay some dead letters, and discard others."""
    random = world.random("letters")
    while not world.stopping:
        await asyncio.sleep(random.expovariate(1 / 15))
        page = await _admin(world, "GET", f"/api/admin/dead-letters?limit={_MOST_LETTERS}")
        ids = [letter["id"] for letter in page["dead_letters"] if random.random() < 0.6]
        if not ids:
            continue
        if random.random() < 0.5:
            # Also where the answer is lost, it may have been done.
            world.model.replaying.update(ids)
            world.model.discarded.difference_update(ids)
            body = {"ids": ids, "lifetime_s": _REPLAYED_LIVE_S}
            done = await _admin(world, "POST", "/api/admin/dead-letters/replay", body)
            world.model.replayed.update(dict.fromkeys(ids, world.loop.time()) if done["count"] == len(ids) else {})
            world.trace("operator", f"has replayed {done['count']} dead letters")
        else:
            done = await _admin(world, "POST", "/api/admin/dead-letters/discard", {"ids": ids})
            world.model.discarded.update(ids)
            world.trace("operator", f"has discarded {done['count']} dead letters")


# -- what a provider took away -----------------------------------------------------------------------------------------


async def mend_false_deaths(world: World, trouble: Trouble) -> None:
    """The provider has called living tokens dead: bring them back, from quarantine and from the history. With them
    comes back what is in quarantine for another reason."""
    lost = [
        one
        for one in world.model.standing(Standing.GONE)
        if one.falsely_dead and (one.is_unfit or trouble.affects(one.phone))
    ]
    for one in lost:
        one.standing = Standing.CHANGING
    removed = [token for token in dict.fromkeys([one.phone.token for one in lost]) if await _is_removed(world, token)]
    for held in await _admin(world, "GET", "/api/admin/quarantine"):
        account = held["application"]
        released = await _admin(world, "POST", f"/api/admin/quarantine/{account}/release")
        world.trace("operator", f"has released {released['released']} of {held['tokens']} tokens of {account}")
    for token in removed:
        # The fuse did not hold it back, because it had not blown yet.
        await _admin(world, "POST", "/api/admin/devices/restore", {"device_token": token})
    for one in lost:
        if one.phone.dead:
            one.standing = Standing.GONE  # for good, or until its user registers it again
        else:
            world.model.was_restored(one)
            world.trace("operator", f"has brought back {one.phone!r} of {one.owner[-4:]}")


async def _is_removed(world: World, token: str) -> bool:
    """Whether it is not even in quarantine, for any of its users."""
    found = await _admin(world, "POST", "/api/admin/devices/search", {"device_token": token})
    return any(not one["quarantined"] for one in found["removed"])


async def _admin(world: World, method: str, path: str, body: Any = None) -> Any:
    content = b"" if body is None else msgspec.json.encode(body)
    return await world.request(method, path, world.secrets.admin, content)
