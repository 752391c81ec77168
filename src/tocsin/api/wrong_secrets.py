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
        self._total = 0
        self._by_address: dict[str, int] = {}

    def count(self, address: str) -> None:
        self._total += 1
        known = self._by_address.get(address)
        if known is not None or len(self._by_address) < _MOST_ADDRESSES:
            self._by_address[address] = (known or 0) + 1

    async def report(self) -> None:
        """Log what was counted since the last report, with the addresses that most of it came from."""
        if not self._total:
            return
        most = sorted(self._by_address.items(), key=lambda item: item[1], reverse=True)[:_NAMED]
        log.warning("wrong keys or sessions", count=self._total, addresses=dict(most))
        self._total = 0
        self._by_address = {}
