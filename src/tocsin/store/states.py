"""The state machine of an event: pure functions that every store uses. `docs/state-machine.md` draws it."""

from __future__ import annotations

from tocsin.store.records import DEAD_LETTER, Attempt, State


def after_settlement(*, waiting: bool, dead: bool) -> State:
    """Where an event stands once something of it was settled.

    `waiting`: deliveries of it are still parked. `dead`: a device ended in a dead letter in this round.
    """
    if waiting:
        return State.DELIVERING
    return State.DEAD if dead else State.DONE


def after_replay(*, devices: bool) -> State:
    """Where a dead letter stands once it was replayed; `devices`: whether any is left to deliver to."""
    return State.DELIVERING if devices else State.DONE


AFTER_DISCARD = State.DONE


def keeps_body(state: State) -> bool:
    """Whether the content is still needed: to be sent, or for a replay."""
    return state is not State.DONE


def dead_devices(attempts: list[Attempt]) -> list[Attempt]:
    """The last attempt of each device that ended in a dead letter, in order of the attempts: what a replay sends."""
    last: dict[str, Attempt] = {}
    for attempt in attempts:
        last.pop(attempt.device, None)
        last[attempt.device] = attempt
    return [attempt for attempt in last.values() if attempt.result in DEAD_LETTER]
