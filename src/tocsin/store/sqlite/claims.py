"""Claims on a file: nothing is given out while it cannot be written."""

from __future__ import annotations

from tocsin.store.claims import Claims
from tocsin.store.clock import ClockWatch
from tocsin.store.ports import StoreUnavailable
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.leases import FileLeases


class FileClaims(Claims):
    def __init__(self, database: Database, leases: FileLeases, clock: ClockWatch) -> None:
        super().__init__(leases, clock)
        self._database = database
        self.leases = leases

    async def can_settle(self) -> None:
        failure = self._database.write_failure
        if failure is not None:
            self.leases.stand_still()
            if not await self._database.probe():
                raise StoreUnavailable(self._database.write_failure or failure)
        else:
            self.leases.held_up(self._database.longest_wait_s())
