"""Bulk actions over everything that matches a filter: which, and how many there are. Every store runs them alike.

A filter is frozen when its job is created: what comes later is not touched, however long the job takes. It says which
dead letters (`replay`, `discard`), which removed registrations (`restore`), or whose quarantine (`release`, `purge`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Final

from msgspec import Struct

from tocsin.domain.events import UserId
from tocsin.store.ports import Store
from tocsin.store.records import DEAD_LETTER, Cursor, DeadLetter, EventRecord, Query, Removal, State
from tocsin.store.searching import matching

PAGE: Final = 200
_EXAMPLES: Final = 5


class Action(StrEnum):
    REPLAY = "replay"
    DISCARD = "discard"
    RESTORE = "restore"
    RELEASE = "release"
    PURGE = "purge"


LETTERS: Final = frozenset({Action.REPLAY, Action.DISCARD})
QUARANTINE: Final = frozenset({Action.RELEASE, Action.PURGE})


class Filter(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What is not given matches everything. Of a dead letter, all of it must be true of one device."""

    owner: str | None = None
    message: str | None = None
    system: str | None = None
    account: str | None = None
    lanes: list[str] | None = None
    """Those of `account`."""
    outcome: str | None = None
    reason: str | None = None
    from_ms: int | None = None
    """When the last attempt was, or the removal: at this time or later, and before `until_ms`."""
    until_ms: int


class Plan(Struct, frozen=True):
    """The arguments of a job."""

    filter: Filter
    lifetime_ms: int = 0
    """For how long what is replayed lives."""
    max_tokens: int = 0


class Preview(Struct, frozen=True):
    """How many match: all that do where `exact`, else estimated from the newest `looked_at`. Where nobody knows how
    many there are to look at, `estimate` is what was found among those: `at_least` so many match."""

    estimate: int
    exact: bool
    looked_at: int
    examples: list[str]
    at_least: bool = False

    @property
    def total(self) -> int | None:
        """How many a job has to do; None where nobody knows."""
        return None if self.at_least else self.estimate


def query_of(wanted: Filter) -> Query:
    """The same filter of dead letters as a search: what it finds is what a job is done to."""
    return Query(
        owners=None if wanted.owner is None else frozenset({UserId(wanted.owner)}),
        message=wanted.message,
        provider=wanted.system,
        lanes=None if wanted.lanes is None else frozenset(wanted.lanes),
        outcomes=frozenset(DEAD_LETTER if wanted.outcome is None else {wanted.outcome}),
        reason=wanted.reason,
        at_from_ms=wanted.from_ms,
        at_until_ms=wanted.until_ms,
        states=frozenset({State.DEAD}),
    )


def matching_letter(letter: DeadLetter, wanted: Filter) -> bool:
    return bool(matching(EventRecord(letter.event, State.DEAD, letter.devices, []), query_of(wanted)))


def matching_removal(removal: Removal, wanted: Filter) -> bool:
    device = removal.device
    return (
        wanted.owner in (None, device.owner)
        and wanted.system in (None, device.provider)
        and wanted.account in (None, removal.account)
        and wanted.reason in (None, removal.reason)
        and (wanted.from_ms is None or removal.removed_ms >= wanted.from_ms)
        and removal.removed_ms < wanted.until_ms
    )


async def preview(store: Store, action: Action, wanted: Filter, is_over: Callable[[], bool]) -> Preview:
    """Looks at the newest until `is_over`, and estimates the rest."""
    if action in QUARANTINE:
        tokens = sum(one.tokens for one in await store.registry.quarantine() if one.account == wanted.account)
        return Preview(tokens, True, tokens, [])
    looked_at = matched = 0
    examples: list[str] = []
    start: Cursor | None = None
    while True:
        names, looked, start = await _page(store, action, wanted, start)
        looked_at, matched = looked_at + looked, matched + len(names)
        examples += names[: _EXAMPLES - len(examples)]
        if start is None:
            return Preview(matched, True, looked_at, examples)
        if is_over():
            break
    if action not in LETTERS:
        return Preview(matched, False, looked_at, examples, at_least=True)
    in_all = await store.log.count_dead_letters()
    return Preview(round(matched * max(1.0, in_all / max(1, looked_at))), False, looked_at, examples)


async def _page(
    store: Store, action: Action, wanted: Filter, start: Cursor | None
) -> tuple[list[str], int, Cursor | None]:
    if action in LETTERS:
        page = await store.log.dead_letters(PAGE, start=start)
        return [one.event.id for one in page.letters if matching_letter(one, wanted)], len(page.letters), page.next
    gone = await store.registry.removals(PAGE, start=start)
    return list(_names(one for one in gone.removals if matching_removal(one, wanted))), len(gone.removals), gone.next


def _names(removals: Iterable[Removal]) -> Iterable[str]:
    """Tokens are secret: only their beginnings."""
    return (f"{one.device.provider}:{one.device.token[:8]}…" for one in removals)
