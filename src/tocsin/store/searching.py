"""What a search is about: how each delivery of an event stands, and which of them are looked for.

Pure functions that every store uses. An index need not know all of it: it may keep an event's `Shape` alone, which says
whether the event can be among what is looked for, and have the record itself decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tocsin.store.records import (
    ACCEPTED,
    FINAL,
    NO_DEVICE,
    WAITING,
    Attempt,
    DeliveryState,
    EventRecord,
    Parked,
    Query,
    Result,
    State,
)

ANY_REASON: Final = "*"
"""Stands in a shape for a text of our own (a link's failure), of which there may be many."""

Combination = tuple[str, str, str, str]
"""Provider, lane, outcome and reason of a delivery."""
Shape = tuple[str, tuple[Combination, ...]]
"""An event's message, and the different combinations of its deliveries, sorted."""


def deliveries(record: EventRecord) -> list[DeliveryState]:
    """How each delivery stands, in the order of the devices' first attempts; an event without any is one row."""
    return states_of(record.attempts, record.waiting, record.event.accepted_ms, record.state)


def states_of(
    attempts: Sequence[Attempt], waiting: Sequence[Parked], accepted_ms: int, state: State
) -> list[DeliveryState]:
    """The same, from the parts of a record."""
    if states := _states(attempts, waiting, accepted_ms):
        return states
    outcome = NO_DEVICE if state in (State.DONE, State.DEAD) else ACCEPTED
    return [DeliveryState(device="", outcome=outcome, at_ms=accepted_ms)]


def _states(attempts: Sequence[Attempt], waiting: Sequence[Parked], accepted_ms: int) -> list[DeliveryState]:
    last: dict[str, Attempt] = {}
    counts: dict[str, int] = {}
    for attempt in attempts:
        last[attempt.device] = attempt
        counts[attempt.device] = counts.get(attempt.device, 0) + 1
    parked = {device: one for one in waiting for device in one.targets}
    return [_state(key, last.get(key), parked.get(key), counts.get(key, 0), accepted_ms) for key in last | parked]


def _state(
    device: str, attempt: Attempt | None, parked: Parked | None, attempts: int, accepted_ms: int
) -> DeliveryState:
    final = parked is None and attempt is not None and attempt.result in FINAL
    return DeliveryState(
        device=device,
        outcome=attempt.result if final and attempt is not None else WAITING,
        lane=parked.lane if parked is not None else attempt.lane if attempt is not None else "",
        status=0 if attempt is None else attempt.status,
        reason="" if attempt is None else attempt.reason,
        at_ms=accepted_ms if attempt is None else attempt.at_ms,
        attempts=attempts,
        due_ms=parked.due_ms if parked is not None else None,
    )


def matching(record: EventRecord, query: Query) -> list[DeliveryState]:
    """Those of the event's deliveries that are looked for."""
    event = record.event
    if query.owners is not None and event.owner not in query.owners:
        return []
    if query.message is not None and event.message != query.message:
        return []
    if query.from_ms is not None and event.accepted_ms < query.from_ms:
        return []
    if query.until_ms is not None and event.accepted_ms >= query.until_ms:
        return []
    if query.states is not None and record.state not in query.states:
        return []
    return [state for state in deliveries(record) if _is_wanted(state, query)]


def _is_wanted(state: DeliveryState, query: Query) -> bool:
    if query.devices is not None and state.device not in query.devices:
        return False
    if query.at_from_ms is not None and state.at_ms < query.at_from_ms:
        return False
    if query.at_until_ms is not None and state.at_ms >= query.at_until_ms:
        return False
    return _fits((provider_of(state.device), state.lane, state.outcome, state.reason), query)


def provider_of(device: str) -> str:
    """The provider that a device's key begins with."""
    return device.partition(":")[0]


def shape_of(message: str, states: Iterable[DeliveryState]) -> Shape:
    """What an index keeps of an event."""
    combinations = {
        (
            provider_of(one.device),
            one.lane,
            one.outcome,
            ANY_REASON if one.reason and not one.status else one.reason,
        )
        for one in states
    }
    return message, tuple(sorted(combinations))


def is_plain(shape: Shape) -> bool:
    """Whether everything was delivered: most events are so, and nobody looks for them by their outcome."""
    return all(outcome == Result.DELIVERED for _, _, outcome, _ in shape[1])


def may_match(shape: Shape, query: Query) -> bool:
    """Whether an event of this shape can be among what is looked for."""
    message, combinations = shape
    if query.message is not None and query.message != message:
        return False
    return any(_fits(one, query) for one in combinations)


def _fits(combination: Combination, query: Query) -> bool:
    provider, lane, outcome, reason = combination
    return (
        (query.provider is None or query.provider == provider)
        and (query.lanes is None or lane in query.lanes)
        and (query.outcomes is None or outcome in query.outcomes)
        and (query.reason is None or reason in (query.reason, ANY_REASON))
    )
