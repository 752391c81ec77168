"""The stores that the contract suite runs over. A further store is one more entry here, and nothing else in here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.support.clocks import Clocks
from tests.support.model_postgres import ModelStores
from tests.support.postgres import PostgresStores
from tests.support.sqlite import SqliteStores

from tocsin.store.ports import Store


class Stores(Protocol):
    """Stores on one set of data: each method returns one that is open, with the clocks that the factory was given."""

    async def open(
        self, *, max_events: int = ..., max_bytes: int = ..., lease_s: float = ..., server: bool = ...
    ) -> Store:
        """The server's store, started; or with `server` false what a command beside it opens."""
        ...

    async def noticed(self, store: Any) -> None:
        """Returns when `store` has noticed all that other processes have changed."""

    async def reopen(self, **options: int) -> Store:
        """After an orderly end of the server."""
        ...

    async def crash(self, **options: int) -> Store:
        """After the server was killed: nothing was closed."""
        ...


FACTORIES: dict[str, Callable[[Path, Clocks, AsyncExitStack], Stores]] = {
    "model": ModelStores,
    "postgres": PostgresStores,
    "sqlite": SqliteStores,
}

KINDS = [pytest.param(kind, marks=pytest.mark.slow) if kind == "postgres" else kind for kind in sorted(FACTORIES)]
"""As parameters of a test. For PostgreSQL a server has to be started."""
