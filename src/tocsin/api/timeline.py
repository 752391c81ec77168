"""One event from its acceptance to the last answer: what happened at each device, why, and what happens next.

It answers "my phone did not ring". The text of a message is hidden unless it is asked for, and gone once everything is
settled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from tocsin.api.event_records import provider_id_of
from tocsin.api.lane_views import meaning
from tocsin.api.timestamps import rfc3339
from tocsin.domain.devices import Device
from tocsin.domain.events import VARIANTS, Event
from tocsin.domain.explanations import Explanation, Facts, Wait, of_answer, of_delivery, of_event
from tocsin.domain.routes import LaneStatus
from tocsin.providers.base import Preview
from tocsin.providers.rules import RuleBook
from tocsin.store.ports import Store, StoreUnavailable
from tocsin.store.records import WAITING, Attempt, DeliveryState, EventRecord, Query, Removal, State
from tocsin.store.searching import deliveries

HIDDEN: Final = "(hidden)"
_SHOWN_FIELDS: Final = frozenset(name for variant in VARIANTS for name in (*variant.__struct_fields__, "message")) - {
    "text"
}
"""Fields of events that are no text of a user's."""
_LIKE_IT: Final = 20


class AttemptView(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One attempt. `status` is the provider's HTTP status, absent where there was no answer; `meaning` is what the
    provider means by its answer."""

    at: str
    result: str
    lane: str
    round: int
    number: int
    meaning: str
    status: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    provider_id: str | UnsetType = UNSET
    retry_at: str | UnsetType = UNSET


class NextView(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What tocsin does next: `retry` at its time, `paused` until the lane goes on, or `queued` until its turn."""

    what: str
    lane: str
    text: str
    at: str | UnsetType = UNSET


class RequestView(Struct, frozen=True):
    """The push as it would be sent now, without the credential."""

    url: str
    headers: list[list[str]]
    body: Any
    size_bytes: int


class DeviceTimeline(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One delivery. `registered`: the device is registered now; what became of it otherwise stands beside.
    `registered_at`: when it was registered last."""

    system: str
    device_token: str
    outcome: str
    explanation: Explanation
    registered: bool
    attempts: list[AttemptView]
    registered_at: str | UnsetType = UNSET
    removed_at: str | UnsetType = UNSET
    removed_because: str | UnsetType = UNSET
    next: NextView | UnsetType = UNSET
    request: RequestView | UnsetType = UNSET


class Content(Struct, frozen=True, omit_defaults=True):
    """The event's body: `hidden` has it without the texts, `shown` with them; `gone` once it is settled."""

    state: str
    body: Any = UNSET


class Timeline(Struct, frozen=True, kw_only=True):
    """One event: where it stands, why, and every attempt."""

    event_id: str
    owner: str
    message: str
    state: str
    accepted_at: str
    expires_at: str
    round: int
    explanation: Explanation
    content: Content
    devices: list[DeviceTimeline]


class Around(Struct, frozen=True, kw_only=True):
    """What is known beside the record."""

    rules: RuleBook
    now_ms: int
    lanes: Mapping[str, LaneStatus] = {}
    """Of every node."""
    unserved_since: str | None = None
    """See `explanations.Facts`."""
    preview: Callable[[Event, Device], Preview] | None = None
    shows_content: bool = False


async def timeline(store: Store, record: EventRecord, around: Around) -> Timeline:
    """Raises StoreUnavailable: the store cannot be read."""
    owner = record.event.owner
    registered = {one.key: one for one in (await store.registry.devices_of((owner,))).get(owner, ())}
    removed: dict[str, Removal] = {}
    for removal in sorted(await store.registry.history(owner=owner), key=lambda one: one.removed_ms):
        removed[removal.device.key] = removal
    states = deliveries(record)
    like_it = await _of_others(store, record, states, around)
    last_removal = next(reversed(removed.values()), None)
    found: list[DeviceTimeline] = []
    reasons: list[Explanation] = []
    for state in states:
        device = registered.get(state.device)
        gone = (removed.get(state.device) if state.device else last_removal) if device is None else None
        wait = _wait(state, device, around, like_it)
        why = of_delivery(_facts(record, state, gone, wait, around))
        reasons.append(why)
        if state.device:
            found.append(_device(record, state, device, gone, wait, why, around))
    event = record.event
    return Timeline(
        event_id=event.id,
        owner=event.owner,
        message=event.message,
        state=record.state.name.lower(),
        accepted_at=rfc3339(event.accepted_ms),
        expires_at=rfc3339(event.expires_ms),
        round=record.round,
        explanation=of_event(reasons),
        content=_content(event, record, around),
        devices=found,
    )


def _facts(record: EventRecord, state: DeliveryState, gone: Removal | None, wait: Wait | None, around: Around) -> Facts:
    last = next((one for one in reversed(record.attempts) if one.device == state.device), None)
    told = last
    if state.outcome == "expired":
        # What ended its life is no answer of the provider's: the one before it is what it waited for.
        own = [one for one in record.attempts if one.device == state.device and one.status]
        told = own[-1] if own else None
    final = record.state in (State.DONE, State.DEAD)
    return Facts(
        outcome=state.outcome,
        result="" if told is None else told.result,
        status=0 if told is None else told.status,
        reason="" if told is None else told.reason,
        said=None if told is None else said(told, around.rules),
        at=rfc3339(state.at_ms),
        due_at="" if state.due_ms is None else rfc3339(state.due_ms),
        expires_at=rfc3339(record.event.expires_ms),
        wait=wait,
        removed_because="" if gone is None else gone.reason,
        quarantined=gone is not None and gone.quarantined,
        not_for_topic=gone is not None and gone.is_for_topic,
        unserved_since=None if final else around.unserved_since,
    )


def said(attempt: Attempt, rules: RuleBook) -> Explanation | None:
    """What the provider means by the answer to an attempt."""
    own = rules.get(attempt.device.partition(":")[0])
    known = None
    if own is not None and attempt.status:
        known = own.said(attempt.status, attempt.reason)
    if known is None and attempt.result in ("delivered", "retry", "misconfigured"):
        known = of_answer(attempt.status, attempt.reason, attempt.result)
    return known


def _wait(
    state: DeliveryState, device: Device | None, around: Around, like_it: Mapping[str, DeliveryState]
) -> Wait | None:
    if state.outcome != WAITING:
        return None
    lane = around.lanes.get(state.lane)
    if lane is not None:
        topic = _topic(device, around.rules)
        for pause in lane.pauses:
            if pause.topic in ("", topic):
                return Wait(
                    lane=state.lane,
                    since=rfc3339(around.now_ms - int(pause.for_s * 1000)),
                    next_at=rfc3339(around.now_ms + int(pause.next_in_s * 1000)),
                    reason=pause.reason,
                    said=meaning(pause, lane.provider, around.rules),
                    topic=pause.topic,
                )
    elif (other := like_it.get(state.lane)) is not None:
        # Not asked of the lane itself: what was answered last to others that wait for it.
        attempt = Attempt(other.at_ms, other.device, other.lane, "misconfigured", other.status, other.reason)
        return Wait(lane=state.lane, reason=other.reason, said=said(attempt, around.rules))
    return Wait(lane=state.lane)


def _topic(device: Device | None, rules: RuleBook) -> str:
    own = None if device is None else rules.get(device.provider)
    return "" if own is None or device is None else str(own.describe(device.address).get("topic", ""))


async def _of_others(
    store: Store, record: EventRecord, states: Sequence[DeliveryState], around: Around
) -> dict[str, DeliveryState]:
    """For lanes whose status is not known here: the last answer to another delivery that waits for the lane."""
    wanted = {
        one.lane
        for one in states
        if one.outcome == WAITING and not one.attempts and one.lane and one.lane not in around.lanes
    }
    found: dict[str, DeliveryState] = {}
    for lane in wanted:
        query = Query(lanes=frozenset({lane}), outcomes=frozenset({WAITING}))
        try:
            page = await store.search.find(query, _LIKE_IT)
        except StoreUnavailable:
            break
        told = [one for finding in page.found for one in finding.deliveries if one.reason]
        if told:
            found[lane] = max(told, key=lambda one: one.at_ms)
    return found


def _device(
    record: EventRecord,
    state: DeliveryState,
    device: Device | None,
    gone: Removal | None,
    wait: Wait | None,
    why: Explanation,
    around: Around,
) -> DeviceTimeline:
    system, _, token = state.device.partition(":")
    known = device or (None if gone is None else gone.device)
    return DeviceTimeline(
        system=system,
        device_token=token,
        outcome=state.outcome,
        explanation=why,
        registered=device is not None,
        attempts=[_attempt(record, one, around) for one in record.attempts if one.device == state.device],
        registered_at=UNSET if known is None else rfc3339(known.registered_us // 1000),
        removed_at=UNSET if gone is None else rfc3339(gone.removed_ms),
        removed_because=UNSET if gone is None else gone.reason,
        next=UNSET if wait is None else _next(state, wait),
        request=_request(record, state, device, around),
    )


def _attempt(record: EventRecord, one: Attempt, around: Around) -> AttemptView:
    meaning = said(one, around.rules)
    return AttemptView(
        at=rfc3339(one.at_ms),
        result=one.result,
        lane=one.lane,
        round=one.round,
        number=one.number,
        meaning="" if meaning is None else meaning.cause,
        status=one.status or UNSET,
        reason=one.reason or UNSET,
        provider_id=provider_id_of(record.event.id, one) or UNSET,
        retry_at=UNSET if one.retry_at_ms is None else rfc3339(one.retry_at_ms),
    )


def _next(state: DeliveryState, wait: Wait) -> NextView:
    due = "" if state.due_ms is None else rfc3339(state.due_ms)
    if wait.reason:
        what = f"topic {wait.topic} of lane {wait.lane}" if wait.topic else f"lane {wait.lane}"
        since = f" since {wait.since}" if wait.since else ""
        again = wait.next_at or due
        text = f"It waits because {what} is paused{since} because of {wait.reason}; tried again at {again}."
        return NextView(what="paused", lane=wait.lane, at=again, text=text)
    if state.attempts:
        return NextView(what="retry", lane=wait.lane, at=due or UNSET, text=f"The next attempt is at {due}.")
    return NextView(what="queued", lane=wait.lane, at=due or UNSET, text=f"It waits for its turn in lane {wait.lane}.")


def _request(
    record: EventRecord, state: DeliveryState, device: Device | None, around: Around
) -> RequestView | UnsetType:
    event = record.event
    if around.preview is None or device is None or state.outcome != WAITING or not event.body:
        return UNSET
    try:
        preview = around.preview(event, device)
    except ValueError:
        return UNSET
    body = _decoded(preview.body)
    if not around.shows_content:
        body = _without(body, _secret_fields(event))
    return RequestView(preview.url, [list(header) for header in preview.headers], body, len(preview.body))


def _content(event: Event, record: EventRecord, around: Around) -> Content:
    if not event.body:
        return Content("gone")
    body = _decoded(event.body)
    if around.shows_content:
        return Content("shown", body)
    return Content("hidden", _without(body, _secret_fields(event)))


def _secret_fields(event: Event) -> frozenset[str]:
    """The fields of this event that may hold what a user has written."""
    body = _decoded(event.body)
    return frozenset(body) - _SHOWN_FIELDS if isinstance(body, dict) else frozenset()


def _without(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {name: HIDDEN if name in names else _without(one, names) for name, one in value.items()}
    return value


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
