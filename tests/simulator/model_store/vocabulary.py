"""Which function does what a statement of the store does. They are told apart by their text, as the store has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from tests.simulator.model_store.rows import Record, record
from tests.simulator.model_store.transactions import Transaction

Rows = Sequence[tuple[Any, ...]]
Statement = Callable[..., Rows]
"""Takes the transaction and the statement's values; returns rows, as tuples."""
S = TypeVar("S", bound=Callable[..., Any])

_KNOWN: dict[str, tuple[Statement, type[Record]]] = {}
_PATTERNS: list[tuple[re.Pattern[str], Statement, type[Record]]] = []


def does(*texts: str, names: str = "") -> Callable[[S], S]:
    """The function does what these statements do. `names`: of the columns of its rows, where the store asks by name."""

    def known(statement: S) -> S:
        for text in texts:
            assert text not in _KNOWN, text
            _KNOWN[text] = statement, record(names)
        return statement

    return known


def does_all(pattern: str, names: str = "") -> Callable[[S], S]:
    """The same for all statements that match a pattern; its groups come before the values."""

    def known(statement: S) -> S:
        _PATTERNS.append((re.compile(pattern, re.DOTALL), statement, record(names)))
        return statement

    return known


def find(text: str) -> tuple[Statement, type[Record]]:
    """Raises NotImplementedError: the model does not know this statement."""
    found = _KNOWN.get(text)
    if found is None:
        for pattern, statement, kind in _PATTERNS:
            if match := pattern.fullmatch(text):
                found = _KNOWN[text] = partial(_with_groups, statement, match.groups()), kind
                break
        else:
            raise NotImplementedError(f"the model of the database does not know this statement: {text}")
    return found


def _with_groups(statement: Statement, groups: tuple[str, ...], transaction: Transaction, *values: Any) -> Rows:
    return statement(transaction, *groups, *values)


def nothing(*_: Any) -> Rows:
    return ()
