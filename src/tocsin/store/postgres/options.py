"""What a store on PostgreSQL is opened with."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from msgspec import Struct

from tocsin.domain.nodes import host_and_process
from tocsin.store.audit_chain import MAIN
from tocsin.store.master_keys import KeySource
from tocsin.store.postgres.connections import Dial, dial
from tocsin.store.sealer import say_in_log

FRESH_S = 1.0
"""So long after a heartbeat was sent that the database has acknowledged a node may send."""


class PostgresOptions(Struct, frozen=True, kw_only=True):
    """Bounds, and what comes from outside: clocks (seconds) and randomness."""

    url: str
    session_url: str | None = None
    """Where PgBouncer stands behind `url`: the way past it."""
    password: str | None = None
    max_events: int
    max_bytes: int
    lease_s: float
    keys: KeySource
    say: Callable[[str], None] = say_in_log
    """Is told, for a person, what opening the store has done for the first time."""
    chain: str = MAIN
    """The chain of the audit log that this process extends."""
    delivers: bool = True
    """Whether this process takes logs and delivers what they hold."""
    search: bool = True
    """Whether deliveries can be searched, and this process fills the index."""
    connections: int = 8
    """At most, beside the one that holds the locks."""
    fresh_s: float = FRESH_S
    monotonic: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] | None = None
    """A clock that counts instead of the database's (Unix seconds), for tests."""
    host_clock: Callable[[], float] = time.time
    """This host's (Unix seconds): it counts until the database's is known."""
    random: random.Random = random.SystemRandom()
    dial: Dial = dial
    """How connections are made. A simulation gives one to a model of the database."""
    node_name: Callable[[], str] = host_and_process
    """What other nodes call this one."""
