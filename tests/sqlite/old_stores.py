"""Stores as earlier versions of tocsin have left them, with something of everything in them.

The rows are written here as those versions wrote them: the content of events as text, one column for each thing that
is known of a device, removed devices as JSON arrays of eleven values, and a table for each provider's credentials. A
store of 0005 has them as its migration made them of the store before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import msgspec
from msgspec import Struct
from tests.contract.support import LANE, OTHER_LANE, OWNER, SAME_KEY

from tocsin.domain.events import UserId
from tocsin.store.sqlite import migrations
from tocsin.store.sqlite.connection import close, open_connection, raw

EARLIER: Final = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", "0011", "0012")
"""The schemas that stores of released versions may have."""

APPLICATION: Final = "39JSDKGJ38.de.cospace.app"
OTHER_APPLICATION: Final = "39JSDKGJ38.de.cospace.other"
THIRD_APPLICATION: Final = "39JSDKGJ38.de.cospace.third"
ODD_PROJECT: Final = "a&b=c %20 + Grüße; 日本#?"
"""What an operator may call a project."""
FAR_MS: Final = 9_999_999_999_999

OLD_OWNER: Final = UserId("11111111-3803-11e3-8475-0024e8f90cc0")


class OldDevice(Struct, array_like=True):
    """A device as versions before 0005 knew it."""

    owner: str
    system: str
    token: str
    application_id: str | None = None
    sandbox: bool = False
    apns_topic: str | None = None
    registered_us: int = 1
    learned_sandbox: bool | None = None
    learned_project: str | None = None
    learned_field: str | None = None
    last_success_ms: int | None = None


REGISTERED: Final = (
    OldDevice(OWNER, "apns", "plain", APPLICATION, registered_us=7),
    OldDevice(OWNER, "apns", "all", APPLICATION, True, "de.cospace.app.voip", 8, False, last_success_ms=1234),
    OldDevice(OWNER, "apns", "sandbox", APPLICATION, False, None, 9, True),
    OldDevice(OWNER, "apns", "topic", APPLICATION, False, "de.cospace.app.voip", 10),
    OldDevice(OWNER, "apns", "odd", "39JSDKGJ38.a&b=c %20 Grüße", False, "t&o=p %+", 11),
    OldDevice(OWNER, "fcm", "plain", registered_us=12),
    OldDevice(OWNER, "fcm", "project", registered_us=13, learned_project="main", last_success_ms=5678),
    OldDevice(OWNER, "fcm", "odd", registered_us=14, learned_project=ODD_PROJECT, learned_field="fid"),
    OldDevice(OWNER, "fcm", "field", registered_us=15, learned_field="token"),
    OldDevice(SAME_KEY[0], "apns", "c", APPLICATION, registered_us=8),
    OldDevice(SAME_KEY[0], "fcm", "c", registered_us=9),
    OldDevice(SAME_KEY[1], "apns", "c", APPLICATION, registered_us=7),
)


class OldRemoval(Struct):
    """A registration that is gone, and by which application or project it was reached."""

    device: OldDevice
    application: str
    reason: str
    quarantined: bool = False


REMOVED: Final = (
    OldRemoval(
        OldDevice(OLD_OWNER, "apns", "gone", APPLICATION, True, "de.cospace.app.voip", 21, False, last_success_ms=99),
        APPLICATION,
        "Unregistered",
    ),
    OldRemoval(
        OldDevice(OLD_OWNER, "fcm", "gone", registered_us=22, learned_project=ODD_PROJECT, learned_field="fid"),
        ODD_PROJECT,
        "removed by the operator",
    ),
    OldRemoval(
        OldDevice(OLD_OWNER, "apns", "deleted", APPLICATION, registered_us=23), APPLICATION, "deleted by its user"
    ),
    OldRemoval(
        OldDevice(OLD_OWNER, "apns", "held", APPLICATION, registered_us=24), APPLICATION, "BadDeviceToken", True
    ),
    OldRemoval(OldDevice(OLD_OWNER, "apns", "held too", APPLICATION, True, registered_us=25), APPLICATION, "410", True),
    OldRemoval(
        OldDevice(OLD_OWNER, "fcm", "held", registered_us=26, learned_project=ODD_PROJECT), ODD_PROJECT, "404", True
    ),
)
REMOVED_MS: Final = 1_700_000_000_000

KEY_PEM: Final = "-----BEGIN PRIVATE KEY-----\nMIG+/=\n-----END PRIVATE KEY-----\n"
CERTIFICATE_PEM: Final = "-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----\n" + KEY_PEM
APPLICATIONS: Final = (
    # id, key_pem, key_id, certificate_pem, changed_ms
    (APPLICATION, KEY_PEM, "ABC123DEFG", None, 31),
    (OTHER_APPLICATION, None, None, CERTIFICATE_PEM, 32),
    (THIRD_APPLICATION, None, None, None, 33),
)
PROJECTS: Final = (
    # name, service_account, is_default, changed_ms
    (
        ODD_PROJECT,
        '{"client_email":"ö@example.com","private_key":"k\\n","token_uri":"https://t","project_id":"p"}',
        1,
        41,
    ),
    ("main", '{"project_id": "other", "type": "service_account"}', 0, 42),
)

BODY: Final = f'{{"owner":"{OWNER}","message":"fax_new","phone":"Grüße 日本 \\u0000"}}'
LARGE_BODY: Final = f'{{"owner":"{OWNER}","message":"fax_new","phone":"{"ü" * 5000}"}}'
"""Too large to be read together with others."""
CALL_BODY: Final = f'{{"owner":"{OWNER}","message":"dialplan_callreverse_start"}}'
FORGOTTEN_BODY: Final = f'{{"owner":"{OWNER}","message":"fax_new","phone":"1"}}'


class OldEvent(Struct):
    """An event; versions before 0005 kept a digest only of those whose producer had chosen the id."""

    id: str
    body: str
    state: int
    has_digest: bool = False
    attempts: str | None = None
    forgotten: bool = False
    message: str = "fax_new"
    waiting: int = 0


EVENTS: Final = (
    OldEvent("done", BODY, 2, attempts='[1,"apns:plain","lane","delivered",200]', forgotten=True),
    OldEvent("done, chosen", FORGOTTEN_BODY, 2, has_digest=True, forgotten=True),
    OldEvent("waits", BODY, 1, waiting=1),
    OldEvent("waits twice", LARGE_BODY, 1, waiting=2, attempts='[2,"fcm:odd","fcm:main","retry",503,"","",9]'),
    OldEvent(
        "dead",
        BODY,
        3,
        attempts=f'[1,"apns:plain","{LANE}","refused",400,"BadTopic","id",null],[2,"fcm:odd","","expired"]',
    ),
    OldEvent("fresh", BODY, 0),
    OldEvent("fresh, chosen", LARGE_BODY, 0, has_digest=True),
    OldEvent("fresh call", CALL_BODY, 0, message="dialplan_callreverse_start"),
)
PARKED: Final = (
    # event, lane, due_ms, tries, targets, claimed
    ("waits", LANE, 5, 1, '["apns:plain"]', 1),
    ("waits twice", LANE, 6, 2, '["apns:all","apns:topic"]', 0),
    ("waits twice", OTHER_LANE, 7, 3, '["fcm:odd"]', 1),
)


def old_digest(body: str) -> str:
    return blake2b(body.encode(), digest_size=16).hexdigest()


def made_by(version: str, path: Path, before_close: Callable[[], None] | None = None) -> None:
    """A store as that version has left it. Before it is closed, all of it is still in the log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = open_connection(path)
    driver = raw(connection)
    driver.execute("BEGIN IMMEDIATE")
    filled = min(version, "0004")
    migrations.migrate(connection, to=filled)
    _insert_events(driver)
    _insert_devices(driver, by_owner_key=filled >= "0004")
    driver.execute("INSERT INTO session(hash, id, owner, created_ms) VALUES (x'00', 'ses_1', ?, 1)", (OWNER,))
    driver.execute("INSERT INTO api_key(hash, id, role, name, created_ms) VALUES (x'01', 'key_1', 'admin', 'a', 2)")
    driver.executemany("INSERT INTO application VALUES (?, ?, ?, ?, ?)", APPLICATIONS)
    driver.executemany("INSERT INTO fcm_project VALUES (?, ?, ?, ?)", PROJECTS)
    migrations.migrate(connection, to=version)
    driver.execute("COMMIT")
    if before_close is not None:
        before_close()
    close(connection)


def _insert_events(driver: sqlite3.Connection) -> None:
    for event in EVENTS:
        _insert(
            driver,
            "event",
            id=event.id,
            owner=OWNER,
            message=event.message,
            urgent=int(event.message != "fax_new"),
            accepted_ms=1,
            expires_ms=FAR_MS,
            state=event.state,
            waiting=event.waiting,
            dead=int(event.state == 3),
            size=len(event.body.encode()),
            digest=old_digest(event.body) if event.has_digest else None,
            attempts=event.attempts,
            body=None if event.forgotten else event.body,
        )
    for event_id, lane, due_ms, tries, targets, claimed in PARKED:
        (seq,) = driver.execute("SELECT seq FROM event WHERE id = ?", (event_id,)).fetchone()
        _insert(
            driver,
            "parked",
            seq=seq,
            lane=lane,
            urgent=0,
            due_ms=due_ms,
            expires_ms=FAR_MS,
            tries=tries,
            targets=targets,
            claimed=claimed,
        )


def _insert_devices(driver: sqlite3.Connection, *, by_owner_key: bool) -> None:
    taken: dict[int, int] = {}
    for device in REGISTERED:
        values = msgspec.structs.asdict(device)
        if by_owner_key:
            key = crc32(device.owner.encode()) * 2**31
            values["id"] = key + taken.get(key, 0)
            taken[key] = taken.get(key, 0) + 1
        _insert(driver, "device", **values)
    for removal in REMOVED:
        device = removal.device
        _insert(
            driver,
            "removal",
            owner=device.owner,
            system=device.system,
            token=device.token,
            application=removal.application,
            device=msgspec.json.encode(device).decode(),
            removed_ms=REMOVED_MS,
            reason=removal.reason,
            quarantined=removal.quarantined,
        )


def _insert(driver: sqlite3.Connection, table: str, **values: Any) -> None:
    columns, places = ", ".join(values), ", ".join(f":{column}" for column in values)
    driver.execute(f"INSERT INTO {table}({columns}) VALUES ({places})", values)
