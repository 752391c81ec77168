"""Who acts on tocsin: users, producers, an operator, and misfortune. Each draws from randomness of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final

from tests.simulator.judge import APPEND_BOUND_S, Invariant
from tests.simulator.model import Registered, Standing
from tests.simulator.phones import APPLICATIONS, Phone, make_phone, owner_of
from tests.simulator.troubles import Scope, Trouble
from tests.simulator.world import World
from tocsin.domain.credentials import Credential
from tocsin.domain.devices import DeviceToken
from tocsin.domain.events import URGENT, Event, EventId, UserId, parse_event
from tocsin.providers.rules import check_event
from tocsin.store.ports import BacklogFull

_MOST_TOKENS: Final = 1000
_DELETED_AT_ONCE: Final = 0.05
_URGENT_LIVES_S: Final = 60.0
_MESSAGES: Final = (
    *("fax_new", "recording_new", "dialplan_callreverse_start", "dialplan_callreverse_stop"),
    *("chat_message", "chat_message"),
)


# -- users -------------------------------------------------------------------------------------------------------------


async def register(world: World, one: Registered) -> None:
    phone = one.phone
    world.model.registering(one)
    world.judge.phone_changed(phone)
    world.revive(phone)
    registration = phone.registration(one.owner)
    await world.ask(lambda process: process.store.registry.add(registration, _MOST_TOKENS))
    world.model.was_registered(one)
    world.trace("user", f"{one.owner[-4:]} has registered {phone!r}")


async def delete(world: World, one: Registered) -> None:
    phone = one.phone
    world.model.deleting(one)
    world.judge.phone_changed(phone)
    token = DeviceToken(phone.token)
    await world.ask(lambda process: process.store.registry.delete(one.owner, phone.provider, token))
    world.model.was_deleted(one)
    world.trace("user", f"{one.owner[-4:]} has deleted {phone!r}")


async def register_everybody(world: World) -> None:
    plan, random = world.plan, world.random("phones")
    counts = [random.randint(1, plan.most_phones) for _ in range(plan.owners)] + [plan.rich_phones] * plan.rich_owners
    for owner, count in enumerate(counts):
        for _ in range(count):
            phone = make_phone(len(world.phones), random, wrong_environment=plan.wrong_environments)
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
    # A registration is compared with the time at which the provider has seen the token die: a clock that was set in
    # between would tell tocsin the wrong order.
    if "clock" not in world.plan.troubles or one.phone.dead_from_s is None:
        await register(world, one)


# -- producers ---------------------------------------------------------------------------------------------------------


async def producer(world: World, name: str) -> None:
    plan, random = world.plan, world.random(f"producer {name}")
    owners = plan.owners + plan.rich_owners
    while not world.stopping:
        await asyncio.sleep(random.expovariate(1 / plan.event_every_s))
        count = random.randint(1, plan.most_events_at_once)
        events = [_make_event(world, random, owner_of(random.randrange(owners))) for _ in range(count)]
        await hand_in(world, events)
        if plan.repeats and random.random() < 0.3:
            await hand_in(world, events)
        if plan.churn and random.random() < _DELETED_AT_ONCE:
            # While the push is on its way: between look-up and connection, if the moment is right.
            await asyncio.sleep(random.choice((0.0, 0.002, 0.02, 0.2)) * random.random())
            targets = [one for one in world.model.accepted[events[0].id].targets if one.standing is Standing.REGISTERED]
            if targets:
                await delete(world, random.choice(targets))


async def hand_in(world: World, events: list[Event]) -> None:
    """Until it is accepted, with the same ids."""
    while True:
        asked_s = world.loop.time()
        try:
            await world.ask(lambda process: process.store.queue.append(events))
            break
        except BacklogFull as full:
            await asyncio.sleep(full.retry_after_s)
    took_s = world.loop.time() - asked_s
    if took_s > APPEND_BOUND_S and not any(one.scope is Scope.EVERYTHING for one in world.felt()):
        world.judge.violated(Invariant.ISOLATION, f"a producer has waited {took_s:.1f} s for its answer")
    for event in events:
        accepted = world.model.was_accepted(event, asked_s)
        if accepted is not None:
            world.judge.accepted(accepted)
            world.trace("accepted", f"{event.id} {event.message} for {event.owner[-4:]}, {len(event.body)} bytes")


def _make_event(world: World, random: Random, owner: UserId) -> Event:
    world.events += 1
    id, message = f"e0000000-0000-4000-8000-{world.events:012d}", random.choice(_MESSAGES)
    text = "x" * random.randint(0, world.plan.body_bytes)
    fields = {
        "fax_new": f'"fax":"{id}","phone":"+49","page_count":2',
        "recording_new": f'"recording":"{id}","phone":"+49"',
        "chat_message": f'"chat":"{id}","uuid":"{id}","time":1,"user":"{id}","user_name":"A","type":"text",'
        f'"text":"{text}"',
    }.get(message, f'"phone_from":"{id}","phone_to":"+49"')
    line = f'{{"owner":"{owner}","event_id":"{id}","message":"{message}",{fields}}}'
    parsed = parse_event(line.encode())
    body, now_ms = check_event(parsed), world.clocks.now_ms()
    lifetime_s = _URGENT_LIVES_S if message in URGENT else world.plan.lifetime_s
    return Event(EventId(id), owner, message, now_ms, now_ms + int(lifetime_s * 1000), body)


# -- an operator -------------------------------------------------------------------------------------------------------


async def put_credentials(world: World) -> None:
    credentials = [world.apns_credential(application) for application in APPLICATIONS]
    for credential in [*credentials, world.fcm_credential()]:
        await _put(world, credential)


async def operator(world: World) -> None:
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
    await world.ask(lambda process: process.store.credentials.put(credential))


# -- misfortune --------------------------------------------------------------------------------------------------------


async def misfortune(world: World) -> None:
    """Something goes wrong every now and then, of the kinds that the plan has."""
    plan, random = world.plan, world.random("misfortune")
    kinds = [kind for kind in _KINDS if kind in plan.troubles]
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


async def _deaths(world: World, random: Random) -> None:
    living = [one for one in world.model.standing(Standing.REGISTERED) if not one.phone.dead]
    if not living:
        return
    phone: Phone = random.choice(living).phone
    of_it = [one for one in world.model.registered.values() if one.phone is phone]
    # Not in the middle of a registration: whether that came before or after the death would not be certain.
    if any(one.standing is Standing.CHANGING for one in of_it):
        return
    found = await world.ask(lambda process: process.store.registry.find(DeviceToken(phone.token)))
    if found and not any(one.standing is Standing.CHANGING for one in of_it):
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
}
