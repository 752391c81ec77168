"""Devices, those that are gone, their quarantine, and the topics that are right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from tests.simulator.model_store.rows import Row
from tests.simulator.model_store.transactions import Transaction
from tests.simulator.model_store.vocabulary import Rows, does
from tocsin.store.postgres import quarantine, registry, removals, topics
from tocsin.store.postgres.schema import LOCK_SPACE

_OWNER, _TOKEN, _OF_TOKEN = ("owner",), ("token",), ("token", "provider")

# -- devices -----------------------------------------------------------------------------------------------------------


@does(registry._LOCK_OWNERS)
def lock_owners(t: Transaction, keys: Sequence[int]) -> Rows:
    for key in keys:
        t.advisory(LOCK_SPACE + 1, key)
    return ()


def _device(row: Row) -> tuple[Any, ...]:
    registered = (row.registered_us, row.generation, row.last_success_ms, row.complaint)
    return (row.owner, row.provider, row.token, row.address, *registered)


def _of_token(t: Transaction, token: str, provider: str | None = None) -> list[Row]:
    return [row for row in t.where(t.database.device, _TOKEN, token) if provider is None or row.provider == provider]


@does(registry._OF_OWNERS)
def devices_of_owners(t: Transaction, owners: Sequence[str]) -> Rows:
    rows = [row for owner in dict.fromkeys(owners) for row in t.where(t.database.device, _OWNER, owner)]
    return [_device(row) for row in sorted(rows, key=lambda row: row.registered_us)]


@does(registry._OF_TOKEN)
def devices_of_token(t: Transaction, token: str) -> Rows:
    return [_device(row) for row in _of_token(t, token)]


@does(registry._OF_TOKENS)
def devices_of_tokens(t: Transaction, tokens: Sequence[str], providers: Sequence[str]) -> Rows:
    names = zip(tokens, providers, strict=True)
    return [_device(row) for token, provider in names for row in _of_token(t, token, provider)]


@does(registry._PAGE, names="owner provider token address registered_us generation last_success_ms complaint id")
def page(t: Transaction, after: int, limit: int) -> Rows:
    rows = sorted([row for row in t.all(t.database.device) if row.id > after], key=lambda row: row.id)
    return [(*_device(row), row.id) for row in rows[:limit]]


@does(registry._ONE)
def one(t: Transaction, *key: str) -> Rows:
    row = t.get(t.database.device, key)
    return [] if row is None else [_device(row)]


def _register(t: Transaction, columns: Iterable[Sequence[Any]], *, renew: bool) -> list[tuple[str, str, str]]:
    """The registrations that were inserted."""
    inserted = []
    for owner, provider, token, address, registered_us, generation in zip(*columns, strict=True):
        values = {"address": address, "registered_us": registered_us, "generation": generation}
        values |= {"last_success_ms": None, "complaint": None}
        key = (owner, provider, token)
        # As PostgreSQL does: the number is used up whether or not a row is inserted.
        new = {"id": t.database.next_of("device"), "owner": owner, "provider": provider, "token": token, **values}
        if t.put(t.database.device, key, new, values if renew else None):
            inserted.append(key)
    return inserted


@does(registry._REGISTER)
def register(t: Transaction, *columns: Sequence[Any]) -> Rows:
    _register(t, columns, renew=True)
    return ()


@does(registry._BRING_BACK)
def bring_back(t: Transaction, *columns: Sequence[Any]) -> Rows:
    return _register(t, columns, renew=False)


@does(registry._DELETE)
def delete(t: Transaction, *columns: Sequence[str]) -> Rows:
    for key in zip(*columns, strict=True):
        if (row := t.get(t.database.device, key)) is not None:
            t.delete(t.database.device, row)
    return ()


@does(registry._LEARN)
def learn(t: Transaction, *columns: Sequence[Any]) -> Rows:
    for owner, provider, token, generation, address, success_ms, complaint in zip(*columns, strict=True):
        row = t.get(t.database.device, (owner, provider, token))
        if row is None or row.generation != generation:
            continue
        t.update(
            t.database.device,
            row,
            address=row.address if address is None else address,
            last_success_ms=row.last_success_ms if success_ms is None else success_ms,
            complaint=None if success_ms is not None else (row.complaint if complaint is None else complaint),
        )
    return ()


# -- topics ------------------------------------------------------------------------------------------------------------


@does(topics._NOTE)
def note_topics(t: Transaction, *columns: Sequence[Any]) -> Rows:
    for provider, account, name, at_ms in sorted(zip(*columns, strict=True)):
        new = {"provider": provider, "account": account, "name": name, "reached_ms": at_ms}
        t.put(t.database.topic, (provider, account, name), new, {"reached_ms": at_ms})
    return ()


@does(topics._ALL)
def all_topics(t: Transaction) -> Rows:
    return sorted((row.provider, row.account, row.name, row.reached_ms) for row in t.all(t.database.topic))


@does(f"SELECT {registry._COLUMNS} FROM device WHERE {topics.UNFIT}")
def unfit(t: Transaction, for_ms: int, limit: int) -> Rows:
    found = []
    for row in t.all(t.database.device):
        if row.complaint is None:
            continue
        _, since_ms, last_ms, account, topic, *_ = msgspec.json.decode(row.complaint)
        reached = t.get(t.database.topic, (row.provider, account, topic))
        if topic and last_ms >= since_ms + for_ms and reached is not None and reached.reached_ms > since_ms:
            found.append(row)
    found.sort(key=lambda row: (row.owner, row.provider, row.token))
    return [_device(row) for row in found[:limit]]


# -- those that are gone -----------------------------------------------------------------------------------------------


@does(removals._REMEMBER)
def remember(t: Transaction, removed_ms: int, *columns: Sequence[Any]) -> Rows:
    names = ("owner", "provider", "token", "account", "device", "reason", "quarantined", "for_topic")
    for values in zip(*columns, strict=True):
        columns_of_one = dict(zip(names, values, strict=True))
        t.insert(t.database.removal, id=t.database.next_of("removal"), removed_ms=removed_ms, **columns_of_one)
    return ()


def _removals(t: Transaction, token: str, provider: str) -> list[Row]:
    """Of a token, the newest first."""
    return sorted(t.where(t.database.removal, _OF_TOKEN, (token, provider)), key=lambda row: row.id, reverse=True)


@does(removals._OF_REGISTRATION)
def removals_of_registration(t: Transaction, token: str, provider: str, owner: str) -> Rows:
    rows = [row for row in _removals(t, token, provider) if row.owner == owner]
    return [(row.id, row.reason, row.account, row.quarantined) for row in rows]


@does(removals._END)
def end_removals(t: Transaction, by: str, ids: Sequence[int]) -> Rows:
    for row in _by_ids(t, ids):
        t.update(t.database.removal, row, quarantined=False, reason=f"{row.reason}; then {by}")
    return ()


@does(removals._OF_TOKEN)
def removals_of_token(t: Transaction, token: str, provider: str) -> Rows:
    rows = _removals(t, token, provider)
    return [(row.id, row.device, row.reason, row.account if row.quarantined else None) for row in rows]


@does(removals._OWNERS)
def owners_of_removals(t: Transaction, token: str, provider: str) -> Rows:
    return [(owner,) for owner in dict.fromkeys(row.owner for row in _removals(t, token, provider))]


@does("DELETE FROM removal WHERE id = ANY($1::bigint[])")
def forget_removals(t: Transaction, ids: Sequence[int]) -> Rows:
    for row in _by_ids(t, ids):
        t.delete(t.database.removal, row)
    return ()


@does(removals._READ)
def read_removals(t: Transaction, owner: str | None, token: str | None, quarantined_only: bool) -> Rows:
    rows = [
        row
        for row in t.all(t.database.removal)
        if (owner is None or row.owner == owner)
        and (token is None or row.token == token)
        and (row.quarantined or not quarantined_only)
    ]
    rows.sort(key=lambda row: row.id)
    return [(row.device, row.removed_ms, row.reason, row.quarantined, row.account) for row in rows]


@does(removals._PAGE)
def page_of_removals(t: Transaction, first: int, limit: int) -> Rows:
    rows = sorted([row for row in t.all(t.database.removal) if row.id <= first], key=lambda row: -row.id)[:limit]
    return [(row.id, row.device, row.removed_ms, row.reason, row.quarantined, row.account) for row in rows]


def _by_ids(t: Transaction, ids: Iterable[int]) -> list[Row]:
    rows = [t.get(t.database.removal, id) for id in ids]
    return [row for row in rows if row is not None]


# -- quarantine --------------------------------------------------------------------------------------------------------


def _quarantined(t: Transaction) -> list[Row]:
    return [row for row in t.all(t.database.removal) if row.quarantined]


@does(quarantine._COUNTED)
def counted(t: Transaction) -> Rows:
    of_account: dict[tuple[str, str], list[Row]] = {}
    for row in _quarantined(t):
        of_account.setdefault((row.account, row.provider), []).append(row)
    return [
        (provider, account, len(rows), min(row.removed_ms for row in rows), sum(bool(row.for_topic) for row in rows))
        for (account, provider), rows in sorted(of_account.items(), key=lambda item: item[0])
    ]


def _next_account(t: Transaction, provider: str, account: str, *, by_fuse: bool) -> Rows:
    rows = [row for row in _quarantined(t) if not (by_fuse and row.for_topic)]
    return sorted((row.provider, row.account) for row in rows if (row.provider, row.account) > (provider, account))[:1]


@does(quarantine._NEXT.format(held="quarantined"))
def next_account(t: Transaction, provider: str, account: str) -> Rows:
    return _next_account(t, provider, account, by_fuse=False)


@does(quarantine._NEXT.format(held="quarantined AND NOT for_topic"))
def next_account_by_fuse(t: Transaction, provider: str, account: str) -> Rows:
    return _next_account(t, provider, account, by_fuse=True)


@does("SELECT coalesce(max(id), 0) FROM removal")
def newest_removal(t: Transaction) -> Rows:
    return [(max((row.id for row in t.all(t.database.removal)), default=0),)]


def _step(t: Transaction, provider: str, account: str, newest: int) -> list[Row]:
    rows = [row for row in _quarantined(t) if (row.provider, row.account) == (provider, account) and row.id <= newest]
    return sorted(rows, key=lambda row: (row.removed_ms, row.id))[: quarantine.STEP_ROWS]


@does(quarantine._SOME)
def some(t: Transaction, provider: str, account: str, newest: int) -> Rows:
    found = []
    for row in _step(t, provider, account, newest):
        is_back = t.get(t.database.device, (row.owner, row.provider, row.token)) is not None
        later = any(other.owner == row.owner and other.id > row.id for other in _removals(t, row.token, row.provider))
        found.append((row.id, row.device, not is_back and not later))
    return found


@does(quarantine._OWNERS)
def owners_of_step(t: Transaction, provider: str, account: str, newest: int) -> Rows:
    return [(owner,) for owner in dict.fromkeys(row.owner for row in _step(t, provider, account, newest))]


@does(quarantine._END)
def end_quarantine(t: Transaction, ids: Sequence[int]) -> Rows:
    for row in _by_ids(t, ids):
        t.update(t.database.removal, row, quarantined=False)
    return ()


@does(quarantine._PURGE)
def purge(t: Transaction, provider: str, account: str, newest: int) -> Rows:
    rows = _step(t, provider, account, newest)
    for row in rows:
        t.update(t.database.removal, row, quarantined=False)
    return [(row.id,) for row in rows]
