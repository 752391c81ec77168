"""Sessions, keys, credentials, pseudonyms, and the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.simulator.model_store.rows import Row
from tests.simulator.model_store.transactions import Transaction
from tests.simulator.model_store.vocabulary import Rows, does, does_all
from tocsin.store.postgres import access, audit, credentials, pseudonyms
from tocsin.store.postgres.schema import LOCK_SPACE

# -- sessions and keys -------------------------------------------------------------------------------------------------


def _session(row: Row) -> tuple[Any, ...]:
    return row.id, row.owner, row.created_ms, row.expires_ms


def _key(row: Row) -> tuple[Any, ...]:
    return row.id, row.role, row.name, row.created_ms, row.expires_ms, row.limits


@does(access._NEW_SESSION)
def new_session(
    t: Transaction, hash: bytes, id: str, owner: str | None, created_ms: int, expires_ms: int | None
) -> Rows:
    t.insert(t.database.session, hash=hash, id=id, owner=owner, created_ms=created_ms, expires_ms=expires_ms)
    return ()


@does(access._NEW_KEY)
def new_key(t: Transaction, hash: bytes, id: str, role: str, name: str, created_ms: int, *rest: Any) -> Rows:
    expires_ms, limits = rest
    new = {"hash": hash, "id": id, "role": role, "name": name, "created_ms": created_ms}
    t.insert(t.database.api_key, **new, expires_ms=expires_ms, limits=limits)
    return ()


@does(f"{access._SESSION} WHERE hash = $1")
def session(t: Transaction, hash: bytes) -> Rows:
    row = t.get(t.database.session, hash)
    return [] if row is None else [_session(row)]


@does(f"{access._KEY} WHERE hash = $1")
def key(t: Transaction, hash: bytes) -> Rows:
    row = t.get(t.database.api_key, hash)
    return [] if row is None else [_key(row)]


@does(f"{access._SESSION} WHERE $1::uuid IS NULL OR owner = $1 ORDER BY created_ms, id")
def sessions(t: Transaction, owner: str | None) -> Rows:
    rows = [row for row in t.all(t.database.session) if owner is None or row.owner == owner]
    return [_session(row) for row in sorted(rows, key=lambda row: (row.created_ms, row.id))]


@does(f"{access._KEY} ORDER BY created_ms, id")
def keys(t: Transaction) -> Rows:
    return [_key(row) for row in sorted(t.all(t.database.api_key), key=lambda row: (row.created_ms, row.id))]


@does_all(r"DELETE FROM (session|api_key) WHERE id = \$1 OR hash = \$2 RETURNING id")
def revoke(t: Transaction, name: str, id: str, hash: bytes) -> Rows:
    table = getattr(t.database, name)
    rows = [row for row in t.all(table) if row.id == id or row.hash == hash]
    for row in rows:
        t.delete(table, row)
    return [(row.id,) for row in rows]


# -- credentials -------------------------------------------------------------------------------------------------------


@does(credentials._USED)
def used_keys(t: Transaction) -> Rows:
    d = t.database
    return sorted(
        {(row.key_id,) for table in (d.credential, d.content_key, d.kept_key, d.pseudonym) for row in t.all(table)}
    )


@does(credentials._ONE_AT_A_TIME)
def one_at_a_time(t: Transaction) -> Rows:
    t.advisory(LOCK_SPACE, credentials._CHANGING)
    return ()


@does(credentials._OF)
def credentials_of(t: Transaction, provider: str) -> Rows:
    rows = sorted(
        [row for row in t.all(t.database.credential) if row.provider == provider], key=lambda row: row.account
    )
    return [(row.account, row.content, row.is_default, row.changed_ms, row.key_id) for row in rows]


@does(credentials._ALL)
def all_credentials(t: Transaction) -> Rows:
    rows = sorted(t.all(t.database.credential), key=lambda row: (row.provider, row.account))
    for row in rows:
        t.lock(row)
    return [(row.provider, row.account, row.content, row.key_id) for row in rows]


@does(credentials._REWRAP)
def rewrap(t: Transaction, content: bytes, key_id: str, provider: str, account: str) -> Rows:
    if (row := t.get(t.database.credential, (provider, account))) is not None:
        t.update(t.database.credential, row, content=content, key_id=key_id)
    return ()


@does(credentials._NO_OTHER_DEFAULT)
def no_other_default(t: Transaction, provider: str) -> Rows:
    for row in [row for row in t.all(t.database.credential) if row.provider == provider and row.is_default]:
        t.update(t.database.credential, row, is_default=False)
    return ()


@does(credentials._OTHER_DEFAULT)
def other_default(t: Transaction, provider: str, account: str) -> Rows:
    rows = [row for row in t.all(t.database.credential) if row.provider == provider and row.account != account]
    return [(1,) for row in rows if row.is_default]


@does(credentials._PUT)
def put_credential(t: Transaction, provider: str, account: str, *values: Any) -> Rows:
    changes = dict(zip(("content", "is_default", "changed_ms", "key_id"), values, strict=True))
    new = {"provider": provider, "account": account, **changes}
    t.put(t.database.credential, (provider, account), new, changes)
    return ()


@does(credentials._REMOVE)
def remove_credential(t: Transaction, provider: str, account: str) -> Rows:
    row = t.get(t.database.credential, (provider, account))
    if row is None:
        return ()
    t.delete(t.database.credential, row)
    return [(account,)]


@does(credentials._NOTE_CHECK)
def note_check(t: Transaction, provider: str, account: str, changed_ms: int, *values: Any) -> Rows:
    row = t.get(t.database.credential, (provider, account))
    if row is not None and row.changed_ms == changed_ms:
        changes = dict(zip(("at_ms", "sandbox", "ok", "sentence"), values, strict=True)) | {"changed_ms": changed_ms}
        new = {"provider": provider, "account": account, **changes}
        t.put(t.database.credential_check, (provider, account), new, changes)
    return ()


@does(credentials._CHECKS)
def checks(t: Transaction, provider: str) -> Rows:
    found = []
    for row in t.all(t.database.credential_check):
        credential = t.get(t.database.credential, (row.provider, row.account))
        if row.provider == provider and credential is not None and credential.changed_ms == row.changed_ms:
            found.append((row.account, row.at_ms, row.sandbox, row.ok, row.sentence))
    return found


@does(credentials._FORGET_CHECK)
def forget_check(t: Transaction, provider: str, account: str) -> Rows:
    if (row := t.get(t.database.credential_check, (provider, account))) is not None:
        t.delete(t.database.credential_check, row)
    return ()


@does(credentials._COUNT)
def count_sealed(t: Transaction) -> Rows:
    database = t.database
    tables = (database.credential, database.content_key, database.kept_key, database.pseudonym)
    return [(sum(1 for table in tables for _ in t.all(table)),)]


@does_all(r"SELECT (\w+), key_id, record FROM (content_key|kept_key|pseudonym)")
def sealed(t: Transaction, column: str, name: str) -> Rows:
    return [(getattr(row, column), row.key_id, row.record) for row in t.all(getattr(t.database, name))]


@does_all(r"UPDATE (content_key|kept_key|pseudonym) SET record = \$1, key_id = \$2 WHERE (\w+) = \$3")
def seal_again(t: Transaction, name: str, column: str, record: bytes, key_id: str, key: Any) -> Rows:
    table = getattr(t.database, name)
    for row in [row for row in t.all(table) if getattr(row, column) == key]:
        t.update(table, row, record=record, key_id=key_id)
    return ()


# -- pseudonyms --------------------------------------------------------------------------------------------------------


@does(pseudonyms._FIND)
def find_pseudonym(t: Transaction, owner: str) -> Rows:
    row = t.get(t.database.pseudonym, owner)
    return [] if row is None else [(row.key_id, row.record)]


@does(pseudonyms._INSERT)
def insert_pseudonym(t: Transaction, owner: str, key_id: str, record: bytes) -> Rows:
    t.put(t.database.pseudonym, owner, {"owner": owner, "key_id": key_id, "record": record}, None)
    return ()


# -- the audit log -----------------------------------------------------------------------------------------------------


@does(audit._BEGIN)
def begin_chain(t: Transaction, name: str, number: int, hash: bytes) -> Rows:
    ends = {"anchor_number": number, "anchor_hash": hash, "head_number": number, "head_hash": hash}
    t.put(t.database.audit_chain, name, {"name": name, **ends}, None)
    return ()


@does(audit._HEAD)
def head(t: Transaction, name: str) -> Rows:
    row = t.get(t.database.audit_chain, name)
    assert row is not None
    t.lock(row)
    return [(row.head_number, row.head_hash)]


@does(audit._APPEND)
def append_entry(t: Transaction, chain: str, number: int, at_ms: int, text: bytes, hash: bytes) -> Rows:
    entry = {"chain": chain, "number": number, "at_ms": at_ms, "text": text, "hash": hash}
    t.insert(t.database.audit, seq=t.database.next_of("audit"), **entry)
    return ()


@does(audit._SET_HEAD)
def set_head(t: Transaction, name: str, number: int, hash: bytes) -> Rows:
    return _set_end(t, name, head_number=number, head_hash=hash)


@does(audit._SET_ANCHOR)
def set_anchor(t: Transaction, name: str, number: int, hash: bytes) -> Rows:
    return _set_end(t, name, anchor_number=number, anchor_hash=hash)


def _set_end(t: Transaction, name: str, **changes: Any) -> Rows:
    row = t.get(t.database.audit_chain, name)
    assert row is not None
    t.update(t.database.audit_chain, row, **changes)
    return ()


@does(audit._PAGE)
def page(t: Transaction, first: int, limit: int) -> Rows:
    rows = sorted([row for row in t.all(t.database.audit) if row.seq <= first], key=lambda row: -row.seq)[:limit]
    return [(row.seq, row.number, row.text, row.hash) for row in rows]


@does(audit._CHAINS)
def chains(t: Transaction) -> Rows:
    rows = sorted([row for row in t.all(t.database.audit_chain) if row.head_number > 0], key=lambda row: row.name)
    return [(row.name, row.anchor_number, row.anchor_hash, row.head_number, row.head_hash) for row in rows]


def _of_chain(t: Transaction, chain: str) -> list[Row]:
    return sorted([row for row in t.all(t.database.audit) if row.chain == chain], key=lambda row: row.number)


@does(audit._READ)
def read_chain(t: Transaction, chain: str, after: int, limit: int) -> Rows:
    rows = [row for row in _of_chain(t, chain) if row.number > after][:limit]
    return [(row.number, row.text, row.hash) for row in rows]


@does(audit._FRONT)
def front(t: Transaction, chain: str, limit: int) -> Rows:
    return [(row.number, row.hash, row.at_ms) for row in _of_chain(t, chain)[:limit]]


@does(audit._FORGET)
def forget_front(t: Transaction, chain: str, number: int) -> Rows:
    rows: Sequence[Row] = [row for row in _of_chain(t, chain) if row.number <= number]
    for row in rows:
        t.delete(t.database.audit, row)
    return ()
