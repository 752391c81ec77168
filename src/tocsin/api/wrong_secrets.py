"""Tells in the log how many wrong keys and sessions came, and from where: never more than one line for each report."""

from __future__ import annotations

from typing import Final

import structlog

log = structlog.get_logger(__name__)

_MOST_ADDRESSES: Final = 10_000
_NAMED: Final = 10


class WrongSecrets:
    """Counts them until they are reported. Nothing of a secret is kept."""

    def __init__(self) -> None:
        self._wrong = self._not_looked_at = 0
        self._by_address: dict[str, int] = {}

    def wrong(self, address: str) -> None:
        self._wrong += 1
        self._count(address)

    def not_looked_at(self, address: str) -> None:
        """One came from an address that had sent too many wrong ones."""
        self._not_looked_at += 1
        self._count(address)

    def _count(self, address: str) -> None:
        known = self._by_address.get(address)
        if known is not None or len(self._by_address) < _MOST_ADDRESSES:
            self._by_address[address] = (known or 0) + 1

    async def report(self) -> None:
        """Log what was counted since the last report, with the addresses that most of it came from."""
        if not self._by_address:
            return
        most = sorted(self._by_address.items(), key=lambda item: item[1], reverse=True)[:_NAMED]
        counts = {"count": self._wrong, "not_looked_at": self._not_looked_at}
        log.warning("wrong keys or sessions", **counts, addresses=dict(most))
        self._wrong = self._not_looked_at = 0
        self._by_address = {}
