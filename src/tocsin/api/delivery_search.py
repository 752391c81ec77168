"""A search as somebody asks for it, over the API or on the command line, and its answer.

Tokens are secret: they are named in a body, never in a URL. What a token belongs to is looked up first (who has it, and
who had it), so that the index need not know tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tocsin.api.timestamps import rfc3339
from tocsin.domain.events import MESSAGES, EventId, UserId
from tocsin.providers.rules import RuleBook
from tocsin.store.ports import Store
from tocsin.store.records import Cursor, DeliveryState, EventRecord, Finding, Findings, IndexState, Query, State
from tocsin.store.searching import matching, provider_of

MOST: Final = 200
"""So many deliveries are on a page, but for the last event's."""
Outcome = Literal["delivered", "token_dead", "refused", "expired", "cancelled", "waiting", "no_device", "accepted"]
EventState = Literal["accepted", "delivering", "done", "dead"]
Moment = Annotated[datetime, Meta(tz=True)]


class SearchRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that is given must be true of one and the same delivery. `from` and `until` are about the acceptance of the
    event, `at_from` and `at_until` about the delivery's `at`."""

    owner: UUID | None = None
    event_id: UUID | None = None
    device_token: Annotated[str, Meta(min_length=1)] | None = None
    system: str | None = None
    account: str | None = None
    outcome: Annotated[list[Outcome], Meta(min_length=1)] | None = None
    reason: str | None = None
    message: str | None = None
    from_: Moment | None = msgspec.field(default=None, name="from")
    until: Moment | None = None
    at_from: Moment | None = None
    at_until: Moment | None = None
    state: Annotated[list[EventState], Meta(min_length=1)] | None = None
    limit: Annotated[int, Meta(ge=1, le=MOST)] = 50
    start: str | None = None


class DeliveryRow(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One delivery as it stands. `at` is its last attempt, or the acceptance; `due_at` when the next one is due.
    `account` is the application or the project that its lane is of."""

    event_id: str
    owner: str
    message: str
    accepted_at: str
    at: str
    state: str
    outcome: str
    attempts: int
    system: str | UnsetType = UNSET
    device_token: str | UnsetType = UNSET
    lane: str | UnsetType = UNSET
    account: str | UnsetType = UNSET
    status: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    due_at: str | UnsetType = UNSET


class IndexReport(Struct, frozen=True):
    """How far the index is behind. What happened within `behind_s` may not be found yet."""

    behind_s: float
    waiting_events: int
    rebuilding: bool
    indexed_to: str | None


class SearchAnswer(Struct, frozen=True):
    """Newest event first. `complete` false: the time for one call was over; `next` goes on behind what was looked at,
    which is all until `looked_back_to`. A page ends with a whole event."""

    deliveries: list[DeliveryRow]
    next: str | None
    complete: bool
    looked_back_to: str | None
    index: IndexReport
    most: int = MOST


def unknown_name(rules: RuleBook, system: str | None, message: str | None) -> tuple[str, str] | None:
    """The field that names what there is not, and what it must be: nothing could match, and a typing error would look
    like an answer."""
    if system is not None and system not in rules:
        return "system", rules.must_be
    if message is not None and message not in MESSAGES:
        return "message", f"none of {', '.join(MESSAGES)}"
    return None


async def search(store: Store, rules: RuleBook, request: SearchRequest) -> SearchAnswer:
    """Raises UnknownCursor: `start` is none; StoreUnavailable: the index cannot be used."""
    query = await _query(store, rules, request)
    if request.event_id is not None:
        return await _one_event(store, rules, EventId(str(request.event_id)), query)
    start = None if request.start is None else Cursor(request.start)
    if query is None:
        return _answer(rules, Findings([], None, True, None, await store.search.state()))
    return _answer(rules, await store.search.find(query, request.limit, start=start))


async def _query(store: Store, rules: RuleBook, request: SearchRequest) -> Query | None:
    """None where nothing can match: nobody has ever had the token."""
    owners = None if request.owner is None else {UserId(str(request.owner))}
    devices: set[str] | None = None
    if request.device_token is not None:
        devices, holders = set(), set()
        for token in rules.stored_tokens(request.device_token):
            registered = await store.registry.find(token)
            removed = await store.registry.history(token=token)
            for device in (*registered, *(one.device for one in removed)):
                if rules.is_token_of(request.device_token, device):
                    devices.add(device.key)
                    holders.add(device.owner)
        owners = holders if owners is None else owners & holders
        if not owners:
            return None
    return Query(
        owners=None if owners is None else frozenset(owners),
        devices=None if devices is None else frozenset(devices),
        provider=request.system,
        lanes=None if request.account is None else _lanes(rules, request.account, request.system),
        outcomes=None if request.outcome is None else frozenset(request.outcome),
        reason=request.reason,
        message=request.message,
        from_ms=unix_ms(request.from_),
        until_ms=unix_ms(request.until),
        at_from_ms=unix_ms(request.at_from),
        at_until_ms=unix_ms(request.at_until),
        states=None if request.state is None else frozenset(State[name.upper()] for name in request.state),
    )


def _lanes(rules: RuleBook, account: str, system: str | None) -> frozenset[str]:
    chosen = [own for name, own in rules.items() if system in (None, name)]
    return frozenset(lane for own in chosen for lane in own.lanes(account))


async def _one_event(store: Store, rules: RuleBook, id: EventId, query: Query | None) -> SearchAnswer:
    """By its id it is found in the store itself, which is never behind."""
    record = await store.log.record(id)
    found = [] if record is None or query is None else matching(record, query)
    findings = [Finding(record, found)] if record is not None and found else []
    return _answer(
        rules, Findings(findings, None, True, None, IndexState(0.0, 0, rebuilding=False, indexed_to_ms=None))
    )


def unix_ms(moment: datetime | None) -> int | None:
    """Unix milliseconds; None stays None."""
    if moment is None:
        return None
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)


def _answer(rules: RuleBook, findings: Findings) -> SearchAnswer:
    return SearchAnswer(
        [row for one in findings.found for row in rows(rules, one.record, one.deliveries)],
        findings.next,
        findings.complete,
        _time(findings.looked_back_to_ms),
        index_report(findings.index),
    )


def index_report(state: IndexState) -> IndexReport:
    return IndexReport(round(state.behind_s, 3), state.waiting_events, state.rebuilding, _time(state.indexed_to_ms))


def rows(rules: RuleBook, record: EventRecord, states: Sequence[DeliveryState]) -> list[DeliveryRow]:
    """These deliveries of an event."""
    event = record.event
    return [
        DeliveryRow(
            event_id=event.id,
            owner=event.owner,
            message=event.message,
            accepted_at=rfc3339(event.accepted_ms),
            at=rfc3339(one.at_ms),
            state=record.state.name.lower(),
            outcome=one.outcome,
            attempts=one.attempts,
            system=one.device.partition(":")[0] or UNSET,
            device_token=one.device.partition(":")[2] or UNSET,
            lane=one.lane or UNSET,
            account=_account(rules, one) or UNSET,
            status=one.status or UNSET,
            reason=one.reason or UNSET,
            due_at=UNSET if one.due_ms is None else rfc3339(one.due_ms),
        )
        for one in states
    ]


def _account(rules: RuleBook, state: DeliveryState) -> str:
    """Empty where no lane is known, or its provider is not configured any more."""
    own = rules.get(provider_of(state.device))
    return "" if own is None or not state.lane else own.account_of(state.lane)


def _time(ms: int | None) -> str | None:
    return None if ms is None else rfc3339(ms)
