"""What is done when a master key is lost for good: what it encrypts is given up, so that all the rest can be used."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from tocsin.domain.actors import Actor
from tocsin.store.audit_chain import Action, Change, Detail
from tocsin.store.ports import StoreError
from tocsin.store.records import GivenUp
from tocsin.store.sqlite import audit, search_feed
from tocsin.store.sqlite.connection import close, open_connection, raw
from tocsin.store.sqlite.failures import sentence
from tocsin.store.sqlite.maintenance import out_of_use

_UNREADABLE: Final = "content_key_id IN (SELECT id FROM content_key WHERE key_id = ?)"
_UNPARK: Final = f"DELETE FROM parked WHERE seq IN (SELECT seq FROM event WHERE {_UNREADABLE})"
_END: Final = (
    "UPDATE event SET state = 2, waiting = 0, dead = 0, body = NULL, content_key_id = NULL, settled_ms = ?"
    f" WHERE {_UNREADABLE} RETURNING seq"
)
_NOTED_AT_ONCE: Final = 1000
"""Events in one row of what the index of the search has to look at."""
_HAS_DIGEST_KEY: Final = "DELETE FROM kept_key WHERE key_id = ?"
# A repeated id is then refused: nobody can say whether it is the same event.
_NO_DIGESTS: Final = "UPDATE event SET digest = NULL"


def give_up(path: Path, key_id: str, now_ms: int, *, actor: Actor, chain: str) -> GivenUp:
    """End all that only the master key `key_id` could open, in one transaction. No server may be running.

    The audit log tells in its `chain` that `actor` has done so.

    Raises:
        StoreError: a server is running, or the store cannot be written.
    """
    with out_of_use(path):
        connection = open_connection(path)
        try:
            driver = raw(connection)
            driver.execute("BEGIN IMMEDIATE")
            given_up = _give_up(driver, key_id, now_ms)
            details: dict[str, Detail] = {"events": given_up.events, "credentials": list(given_up.accounts)}
            audit.append(driver, chain, now_ms, actor, Change(Action.STORE_GIVE_UP_KEY, key_id, details))
            driver.execute("COMMIT")
            return given_up
        except sqlite3.Error as error:
            raise StoreError(f"{path}: {sentence(error)}; nothing was changed") from None
        finally:
            close(connection)


def _give_up(driver: sqlite3.Connection, key_id: str, now_ms: int) -> GivenUp:
    credentials = driver.execute("DELETE FROM credential WHERE key_id = ? RETURNING account", (key_id,)).fetchall()
    driver.execute(_UNPARK, (key_id,))
    ended = [seq for (seq,) in driver.execute(_END, (now_ms, key_id))]
    for first in range(0, len(ended), _NOTED_AT_ONCE):
        search_feed.note(driver, ended[first : first + _NOTED_AT_ONCE], now_ms)
    driver.execute("DELETE FROM content_key WHERE key_id = ?", (key_id,))
    driver.execute("DELETE FROM pseudonym WHERE key_id = ?", (key_id,))
    if driver.execute(_HAS_DIGEST_KEY, (key_id,)).rowcount:
        driver.execute(_NO_DIGESTS)
    return GivenUp(tuple(account for (account,) in credentials), len(ended))
