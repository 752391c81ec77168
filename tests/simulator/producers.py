"""Producers: they hand in events, alone and in batches, repeat ids, and flood."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Final

from tests.simulator.api import JSON, NDJSON
from tests.simulator.judge import APPEND_BOUND_S, Invariant
from tests.simulator.model import Standing
from tests.simulator.phones import owner_of
from tests.simulator.rows import Scope
from tests.simulator.users import delete
from tests.simulator.world import World
from tocsin.domain.events import URGENT, Event, EventId, UserId

_DELETED_AT_ONCE: Final = 0.05
_URGENT_LIVES_S: Final = 60.0
_FLOOD_S: Final = 60
_URGENT: Final = ("dialplan_callreverse_start", "dialplan_callreverse_stop")
_BULK: Final = ("fax_new", "recording_new", "chat_message", "chat_message")
_MESSAGES: Final = (*_BULK[:2], *_URGENT, *_BULK[2:])


async def producer(world: World, name: str) -> None:
    plan, random = world.plan, world.random(f"producer {name}")
    owners = plan.owners + plan.rich_owners
    while not world.stopping:
        await asyncio.sleep(random.expovariate(1 / plan.event_every_s))
        count = random.randint(1, plan.most_events_at_once)
        events = [_make_event(world, random, owner_of(random.randrange(owners)), _MESSAGES) for _ in range(count)]
        await hand_in(world, events)
        if plan.repeats and random.random() < 0.3:
            await hand_in(world, events)
        if plan.churn and random.random() < _DELETED_AT_ONCE:
            # While the push is on its way: between look-up and connection, if the moment is right.
            await asyncio.sleep(random.choice((0.0, 0.002, 0.02, 0.2)) * random.random())
            targets = [one for one in world.model.accepted[events[0].id].targets if one.standing is Standing.REGISTERED]
            if targets:
                await delete(world, random.choice(targets))


async def hand_in_some(world: World, random: Random, count: int) -> None:
    owners = world.plan.owners + world.plan.rich_owners
    await hand_in(
        world, [_make_event(world, random, owner_of(random.randrange(owners)), _MESSAGES) for _ in range(count)]
    )


async def flood(world: World, *, urgent: bool) -> None:
    """For a minute, more events of one kind than the lanes can send."""
    plan, random = world.plan, world.random(f"flood {world.events}")
    messages = _URGENT if urgent else _BULK
    for _ in range(_FLOOD_S):
        events = [
            _make_event(world, random, owner_of(random.randrange(plan.owners)), messages)
            for _ in range(plan.flood_events_a_second)
        ]
        await hand_in(world, events)
        await asyncio.sleep(1)
        if world.stopping:
            break


async def hand_in(world: World, events: list[Event]) -> None:
    """Until it is accepted, with the same ids."""
    asked_s = world.loop.time()
    body, content_type = b"\n".join([event.body for event in events]), NDJSON if len(events) > 1 else JSON
    answer = await world.request("POST", "/api/events", world.secrets.producer, body, content_type=content_type, ok=202)
    if answer != {"accepted": len(events), "events": [event.id for event in events]}:
        world.judge.violated(Invariant.ANSWERS, f"{[event.id for event in events]} were answered with {answer}")
    took_s = world.loop.time() - asked_s
    if took_s > APPEND_BOUND_S and not any(one.scope is Scope.EVERYTHING for one in world.felt()):
        world.judge.violated(Invariant.ISOLATION, f"a producer has waited {took_s:.1f} s for its answer")
    for event in events:
        accepted = world.model.was_accepted(event, asked_s)
        if accepted is not None:
            world.judge.accepted(accepted)
            world.trace("accepted", f"{event.id} {event.message} for {event.owner[-4:]}, {len(event.body)} bytes")


def _make_event(world: World, random: Random, owner: UserId, messages: Sequence[str]) -> Event:
    """As the producer has it: its body is the line that is handed in, its times are tocsin's to decide."""
    world.events += 1
    id, message = f"e0000000-0000-4000-8000-{world.events:012d}", random.choice(messages)
    text = "x" * random.randint(0, world.plan.body_bytes)
    fields = {
        "fax_new": f'"fax":"{id}","phone":"+49","page_count":2',
        "recording_new": f'"recording":"{id}","phone":"+49"',
        "chat_message": f'"chat":"{id}","uuid":"{id}","time":1,"user":"{id}","user_name":"A","type":"text",'
        f'"text":"{text}"',
    }.get(message, f'"phone_from":"{id}","phone_to":"+49"')
    line = f'{{"owner":"{owner}","event_id":"{id}","message":"{message}",{fields}}}'
    now_ms = world.clocks.now_ms()
    lifetime_s = _URGENT_LIVES_S if message in URGENT else world.plan.lifetime_s
    return Event(EventId(id), owner, message, now_ms, now_ms + int(lifetime_s * 1000), line.encode())
