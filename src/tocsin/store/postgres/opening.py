"""Opens the store on PostgreSQL: checks that it can be used, migrates it, and says clearly why not where it cannot."""

from __future__ import annotations

import os
import ssl
from functools import partial
from typing import Final

import asyncpg

from tocsin.store.naming import public_name
from tocsin.store.ports import StorageFailure, StoreError
from tocsin.store.postgres import origin, partitions, schema
from tocsin.store.postgres.connections import Connection, Database, Target, Watched, connect
from tocsin.store.postgres.credentials import used_keys
from tocsin.store.postgres.failures import is_unavailable, sentence
from tocsin.store.postgres.hosts import Hosts
from tocsin.store.postgres.options import PostgresOptions
from tocsin.store.postgres.places import day_of
from tocsin.store.postgres.store import PostgresStore
from tocsin.store.sealer import Sealer, refuse_missing

_OLDEST_SERVER: Final = 15
_COMMAND_CONNECTIONS: Final = 2
_UNKNOWN_TO_PGBOUNCER: Final = "unsupported startup parameter"
"""What PgBouncer says of settings that a connection begins with, and PostgreSQL never."""


async def open_store(options: PostgresOptions, *, server: bool = False) -> PostgresStore:
    """Open (and migrate) the store that `options` name. `server` is for a process that serves.

    Raises:
        StoreError: it cannot be used.
        StorageFailure: it cannot be used at present.
    """
    name = public_name(options.url)
    token = f"{options.random.getrandbits(32):08x}"
    session_url = options.session_url or options.url
    pooled = session_url != options.url
    session_hosts = Hosts(session_url)
    target = Target(
        url=options.url,
        password=options.password,
        application=f"tocsin {token}",
        hosts=Hosts(options.url) if pooled else session_hosts,
        pooled=pooled,
        dial=options.dial,
    )
    session_target = Target(
        url=session_url,
        password=options.password,
        application=f"tocsin session {token}",
        hosts=session_hosts,
        dial=options.dial,
    )
    keys = options.keys.read()
    connection = (await connected(session_target, name)).connection
    try:
        ahead_s = await _prepare(connection, name, options)
        used = await used_keys(connection)
    except StoreError:
        raise
    except asyncpg.InsufficientPrivilegeError as error:
        raise StoreError(
            f"{name}: {sentence(error)}; the user needs the right to create tables in its schema"
        ) from None
    except Exception as error:
        if is_unavailable(error):
            raise StorageFailure(name, sentence(error)) from None
        raise
    finally:
        connection.terminate()
    if server:
        refuse_missing(keys, used)
    sealer = Sealer(options.keys, keys, options.random.randbytes, options.say, used=used)
    database = Database(target, options.connections if server else _COMMAND_CONNECTIONS, options.monotonic)
    store = PostgresStore(name, database, session_target, options, sealer, server=server)
    # A command has no heartbeat, which a server asks the time with.
    now_s = options.monotonic()
    store.clock.seen(now_s + ahead_s, now_s)
    return store


async def connected(target: Target, name: str) -> Watched:
    """A connection for opening.

    Raises:
        StoreError: its server refuses, for a reason that does not go by itself.
        StorageFailure: it cannot be reached at present.
    """
    try:
        return await connect(target)
    except asyncpg.InvalidCatalogNameError:
        raise StoreError(f"{name}: there is no such database; create it (`createdb`), or correct store.url") from None
    except asyncpg.InvalidPasswordError:
        raise StoreError(
            f"{name}: the server refuses the user or the password; correct store.url or store.password_file"
        ) from None
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise StoreError(f"{name}: the server refuses the connection: {sentence(error)}; correct store.url") from None
    except ssl.SSLCertVerificationError as error:
        raise StoreError(f"{name}: {sentence(error)}") from None
    except (ValueError, asyncpg.ClientConfigurationError) as error:
        raise StoreError(f"{name}: store.url cannot be used: {error}") from None
    except asyncpg.ProtocolViolationError as error:
        if _UNKNOWN_TO_PGBOUNCER in str(error):
            raise StoreError(
                f"{name}: PgBouncer stands between: name the way past it, to PostgreSQL itself, with store.session_url"
            ) from None
        raise StorageFailure(name, sentence(error)) from None
    except Exception as error:
        if is_unavailable(error):
            raise StorageFailure(name, _why(error)) from None
        raise


def _why(error: BaseException) -> str:
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "none of its servers takes writes at present"
    if isinstance(error, TimeoutError):
        return "the server cannot be reached: it did not answer in time"
    if isinstance(error, OSError) and not isinstance(error, asyncpg.PostgresError):
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else "no connection"
        return f"the server cannot be reached: {reason}"
    return sentence(error)


async def _prepare(connection: Connection, name: str, options: PostgresOptions) -> float:
    """Returns by how much the store's time (Unix seconds) is ahead of this host's monotonic clock."""
    major = connection.get_server_version().major
    if major < _OLDEST_SERVER:
        raise StoreError(f"{name}: PostgreSQL {_OLDEST_SERVER} or newer is needed, and this is {major}")
    await schema.migrate(connection, name)
    await schema.refuse_moving(connection, name)
    if (wrong := await origin.wrong_with(connection)) is not None:
        raise StoreError(f"{name}: {wrong}")
    asked_at = options.monotonic()
    if options.wall_clock is not None:
        now_s = options.wall_clock()
    else:
        now_s = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    ahead_s = now_s - (asked_at + options.monotonic()) / 2
    today = day_of(int(now_s * 1000))
    make = partial(partitions.make, first_day=today, last_day=today + partitions.AHEAD_DAYS)
    async with connection.transaction():
        await make(connection)
    return ahead_s
