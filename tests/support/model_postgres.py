"""Opens PostgreSQL stores on a model of the database (`tests.simulator.model_store`): nothing of it takes any time."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from tests.simulator.model_store.connection import Way
from tests.simulator.model_store.database import ModelDatabase
from tests.support.clocks import Clocks
from tests.support.postgres import PostgresStores, options
from tocsin.store.postgres.options import PostgresOptions


class ModelStores(PostgresStores):
    """Stores on one model of a database, as `PostgresStores` has them on a real one."""

    def __init__(self, directory: Path, clocks: Clocks, life: AsyncExitStack) -> None:
        super().__init__(directory, clocks, life)
        self._model = ModelDatabase(time.time)

    async def _options(self, **bounds: Any) -> PostgresOptions:
        given = options("postgresql://model/tocsin", self.clocks, **bounds, search=False)
        return replace(given, dial=Way(self._model).dial)

    async def _connections_are_gone(self) -> None:
        """At once: the model is told by whoever abandons them."""
