"""Verifies the chains of an audit log, while others may be writing to it and pruning it."""

from __future__ import annotations

from collections.abc import Set
from typing import Final

from msgspec import Struct

from tocsin.store.audit_chain import ChainCheck, Ends
from tocsin.store.ports import Audit

_AT_ONCE: Final = 500


class Verified(Struct, frozen=True):
    """What was found of one chain."""

    ends: Ends
    checked: int
    """So many entries are as they were written."""
    broken: str
    """Where and how it breaks, a sentence; empty where it holds."""
    hashes: Set[bytes]
    """Those of its entries, and of the last one that was pruned."""


async def verify_all(audit: Audit) -> list[Verified]:
    """Check each chain, as far as it goes now."""
    return [await _verify(audit, ends) for ends in await audit.chains()]


async def _verify(audit: Audit, ends: Ends) -> Verified:
    while True:
        check = ChainCheck(ends)
        while not check.broken and check.next_number <= ends.head.number:
            some = await audit.read(ends.chain, check.next_number - 1, _AT_ONCE)
            for one in some[: ends.head.number + 1 - check.next_number]:
                check.add(one)
            if not some:
                break
        check.end()
        if not check.broken:
            return Verified(ends, check.checked, "", check.found)
        # Pruned meanwhile: it begins elsewhere now.
        now = next((one for one in await audit.chains() if one.chain == ends.chain), ends)
        if now.anchor == ends.anchor:
            return Verified(ends, check.checked, check.broken, check.found)
        ends = now
