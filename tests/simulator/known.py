"""Faults of tocsin that are known and not mended yet: what would find them again and again is left out.

Each has its finding and a test (`test_known.py`) that says whether it is still there. `--with-known` draws them too.
"""

from __future__ import annotations

from typing import Final

from tests.simulator.troubles import Row, Scope

KNOWN: Final[dict[tuple[str, Scope], str]] = {}
"""By the row's name and the scope: what is wrong."""


NONE: Final[frozenset[str]] = frozenset()
FAILING_DEVICES: Final = "failures of one device's pushes"
ALL: Final = frozenset({name for name, _ in KNOWN} | {FAILING_DEVICES})


def is_known(row: Row, scope: Scope, also: frozenset[str] = NONE) -> bool:
    """Whether to leave a row out. `also`: the known ones that are to be drawn nevertheless, by name."""
    if row.fails and scope is Scope.DEVICE:
        return FAILING_DEVICES not in also
    return (row.name, scope) in KNOWN and row.name not in also
