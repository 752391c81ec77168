"""What PostgreSQL's errors mean for whoever called: not done, not known, or a mistake in what was given.

No sentence quotes a value: the driver's own messages may show what was to be stored.
"""

from __future__ import annotations

import ssl
from typing import Final

import asyncpg

from tocsin.store.ports import CommitUnknown, StoreUnavailable

_UNAVAILABLE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.TransactionRollbackError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.InvalidTransactionStateError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    EOFError,
)
_CONNECTION_GONE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    EOFError,
)


def is_unavailable(error: BaseException) -> bool:
    """Whether it says that the database cannot be used at present."""
    return isinstance(error, _UNAVAILABLE) or _is_closed(error)


def is_gone(error: BaseException) -> bool:
    """Whether the connection cannot be used any more, so that nobody knows what became of what was under way."""
    return isinstance(error, _CONNECTION_GONE) or _is_closed(error)


def _is_closed(error: BaseException) -> bool:
    # The driver has one class for this and for mistakes in its use.
    return isinstance(error, asyncpg.InterfaceError) and "closed" in str(error)


def sentence(error: BaseException) -> str:
    """What to tell of it."""
    if isinstance(error, TimeoutError):
        return "the database did not answer in time"
    if isinstance(error, asyncpg.PostgresError):
        return str(error.args[0]) if error.args else type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message
        return f"the server's certificate is not accepted: {why}; correct the host or sslrootcert in store.url"
    if isinstance(error, OSError):
        return error.strerror or "the database cannot be reached"
    return "the connection to the database was lost"


def told(error: BaseException, *, committing: bool = False) -> BaseException:
    """What the caller gets. `committing`: what was under way would have made the change durable."""
    if committing and is_gone(error):
        unknown = CommitUnknown(sentence(error))
        unknown.__cause__ = error
        return unknown
    if is_unavailable(error):
        unavailable = StoreUnavailable(sentence(error))
        unavailable.__cause__ = error
        return unavailable
    if isinstance(error, asyncpg.DataError):
        # The driver's message shows the value.
        return OverflowError("a value is beyond what the store can hold")
    return error
