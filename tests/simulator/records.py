"""What is on record of every event, against what is known of it: again and again while it must be there, and once when
it must be gone."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Final

from tests.simulator.accounts import check_record
from tests.simulator.judge import Invariant, Judge
from tests.simulator.model import Accepted, Arrival, Ended, Model
from tests.simulator.process import Process
from tests.simulator.world import World
from tocsin.store.records import EventRecord, State

_AT_ONCE: Final = 100
"""Two of these may be under way, where a node was lost in the first one: fewer tasks than are too many."""
_EARLY_MS: Final = 6 * 3600 * 1000
_LATE_MS: Final = 12 * 3600 * 1000
"""Tocsin's clock may be wrong by hours for a while, and nothing is forgotten within an hour of that."""


async def check_records(world: World, *, all_ended: bool) -> int:
    """Check what is on record; returns how many of the events are not, as their retention has passed.

    Args:
        all_ended: every event must have come to its end. Otherwise only those are looked at that were not seen to have
            ended yet, and those that have not are left alone.
    """
    model, judge = world.model, world.judge
    wanted = [one for id, one in model.accepted.items() if all_ended or id not in model.ended]
    arrivals = _by_event(judge, model)
    forgotten = 0
    every = [*model.accepted.values()]
    followed_s = {one.event.id: following.answered_s for one, following in pairwise(every)}
    for start in range(0, len(wanted), _AT_ONCE):
        some = wanted[start : start + _AT_ONCE]
        records = await world.ask(lambda process, some=some: _records(process, some))  # type: ignore[misc]
        for accepted, record in zip(some, records, strict=True):
            id = accepted.event.id
            if record is None and may_be_gone(world, id):
                forgotten += 1
                continue
            if record is not None and record.state not in (State.DONE, State.DEAD) and not all_ended:
                continue
            if record is not None and id in followed_s:
                _check_forgotten(world, id, followed_s[id])
            check_record(judge, model, accepted, record, arrivals.get(id, {}), world.all_troubles)
            if record is not None and (id not in model.ended or id in model.replaying):
                from_ms = max([record.event.accepted_ms, *(attempt.at_ms for attempt in record.attempts)])
                model.ended[id] = Ended(from_ms, world.clocks.now_ms(), record.state == State.DEAD)
    return forgotten


def may_be_gone(world: World, id: str) -> bool:
    """Whether its retention may have passed."""
    ended = world.model.ended.get(id)
    if ended is None:
        return False
    kept_ms = _kept_ms(world, is_letter=ended.is_letter)
    if _was_changed(world.model, id):
        kept_ms = min(kept_ms, _kept_ms(world, is_letter=not ended.is_letter))
    return world.clocks.now_ms() - ended.from_ms > kept_ms - _EARLY_MS


def _check_forgotten(world: World, id: str, followed_s: float) -> None:
    """It is on record; until another one followed (loop time), it was the newest event, which is in any case."""
    ended = world.model.ended.get(id)
    if ended is not None and not _was_changed(world.model, id):
        over_ms = world.clocks.now_ms() - ended.until_ms - _kept_ms(world, is_letter=ended.is_letter)
        over_ms = min(over_ms, round(1000 * (world.loop.time() - followed_s)))
        if over_ms > _LATE_MS:
            world.judge.violated(Invariant.RETENTION, f"event {id} is on record {over_ms} ms after its retention")


def _was_changed(model: Model, id: str) -> bool:
    """Somebody has discarded the dead letter, or has it sent again: it has ended once more, nobody knows when."""
    return id in model.discarded or id in model.replaying


def _kept_ms(world: World, *, is_letter: bool) -> int:
    return int(1000 * (world.plan.letters_s if is_letter else world.plan.retention_s))


async def _records(process: Process, some: list[Accepted]) -> list[EventRecord | None]:
    return await asyncio.gather(*[process.store.log.record(accepted.event.id) for accepted in some])


def _by_event(judge: Judge, model: Model) -> dict[str, dict[str, list[Arrival]]]:
    by_event: dict[str, dict[str, list[Arrival]]] = {}
    for (event_id, token), arrivals in model.arrivals.items():
        by_event.setdefault(event_id, {})[token] = arrivals
        if event_id not in model.accepted:
            judge.violated(Invariant.TRUE, f"event {event_id} arrived, and was never accepted")
    return by_event
