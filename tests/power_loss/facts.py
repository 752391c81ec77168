"""What a store says of everything in it, as facts that can be compared: the name of a thing, and how it is."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from tests.power_loss.told import Facts
from tocsin.domain.events import EventId, UserId
from tocsin.store.audit_chain import shown
from tocsin.store.records import EventRecord
from tocsin.store.sqlite.store import SqliteStore

PROVIDERS = ("apns", "fcm")


async def records_of(store: SqliteStore) -> list[EventRecord]:
    """All events. Only ids are asked of the file itself."""
    records = await asyncio.gather(*(store.log.record(EventId(id)) for id in await store.database.read(_ids)))
    return [record for record in records if record is not None]


async def facts_of(store: SqliteStore, records: Sequence[EventRecord] | None = None) -> Facts:
    """Everything that was ever answered to somebody, read through the ports; `records` where they were read before."""
    if records is None:
        records = await records_of(store)
    owners = await store.database.read(_owners)
    facts: Facts = {event(record.event.id): _event(record) for record in records}
    for devices in (await store.registry.devices_of([UserId(owner) for owner in owners])).values():
        facts |= {device(one.owner, one.key): one.address for one in devices}
    for removal in reversed(await store.registry.history()):
        held = ", quarantined" if removal.quarantined else ""
        facts[removed(removal.device.owner, removal.device.key)] = f"{removal.reason}{held}"
    for provider in PROVIDERS:
        for one in await store.credentials.of(provider):
            facts[credential(provider, one.account)] = digest(one.content)
    facts |= {key(one.name): one.role.value for one in await store.access.keys()}
    facts |= {session(one.owner or one.id): "open" for one in await store.access.sessions()}
    facts |= {job(one.kind): f"{one.state} {one.position} {one.done}" for one in (await store.jobs.page(100)).jobs}
    return facts | await _audit(store)


def facts_of_copies(directory: Path) -> Facts:
    """The files that a backup has made: the events in each, if it can be read at all."""
    facts: Facts = {}
    for path in sorted(directory.glob("*.copy")):
        connection = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
        try:
            for (id,) in connection.execute("SELECT id FROM event"):
                facts[in_copy(path.name, id)] = "there"
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            facts[copy(path.name)] = "whole" if verdict == "ok" else str(verdict)
        except sqlite3.Error as error:
            facts[copy(path.name)] = str(error)
        finally:
            connection.close()
    return facts


def event(id: str) -> str:
    return f"event {id}"


def device(owner: str, key: str) -> str:
    return f"device {key} of {owner[:8]}"


def removed(owner: str, key: str) -> str:
    return f"removal of {key} of {owner[:8]}"


def credential(provider: str, account: str) -> str:
    return f"credential {provider}:{account}"


def key(name: str) -> str:
    return f"key {name}"


def session(owner: str) -> str:
    return f"session of {owner[:8]}"


def job(kind: str) -> str:
    return f"job {kind}"


def audited(action: str, what: str) -> str:
    """How often the audit log has it. What is created is named by what it was called: nobody knows its id before."""
    return f"audit of {action} {what}"


def copy(name: str) -> str:
    return f"copy {name}"


def in_copy(name: str, id: str) -> str:
    return f"event {id} in {name}"


def _ids(driver: sqlite3.Connection) -> list[str]:
    return [id for (id,) in driver.execute("SELECT id FROM event ORDER BY seq")]


def _owners(driver: sqlite3.Connection) -> list[str]:
    return [owner for (owner,) in driver.execute("SELECT DISTINCT owner FROM device")]


async def _audit(store: SqliteStore) -> Facts:
    page = await store.audit.page(1000)
    assert page.next is None
    entries = [shown(one) for one in page.entries]
    counts = Counter(audited(one.action, str(one.details.get("name", one.subject))) for one in entries)
    return {name: str(count) for name, count in counts.items()}


def _event(record: EventRecord) -> str:
    attempts = [f"{one.device} {one.result} {one.round}.{one.number}" for one in record.attempts]
    waiting = [f"{'+'.join(one.targets)} waits for {one.lane}" for one in record.waiting]
    content = [digest(record.event.body)] if record.event.body else []
    return "; ".join([record.state.name.lower(), *content, *attempts, *waiting])


def digest(content: bytes) -> str:
    """How the content of an event, or a credential, is told from another."""
    return blake2b(content, digest_size=8).hexdigest()
