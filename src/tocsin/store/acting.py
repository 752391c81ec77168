"""On whose behalf the running task changes something: said once, where a request or a command comes in.

A store asks for it where it makes a change, and then writes the audit entry in the transaction of the change. Where
nobody is acting (delivery, housekeeping) nothing is written. See decision 16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tocsin.domain.actors import Actor

_ACTOR: ContextVar[Actor | None] = ContextVar("actor", default=None)


def actor() -> Actor | None:
    """Who is acting in this task; None where nobody is."""
    return _ACTOR.get()


def act_as(actor: Actor) -> None:
    """From here on, until this task ends, and in the tasks that it starts, `actor` is acting."""
    _ACTOR.set(actor)


@contextmanager
def acting(actor: Actor | None) -> Iterator[None]:
    """In the block, `actor` is acting; None: nobody, until `act_as` is called in it."""
    token = _ACTOR.set(actor)
    try:
        yield
    finally:
        _ACTOR.reset(token)
