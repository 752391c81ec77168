"""Devices that do not belong to their topic: after a week they go into quarantine, where nothing is sent to them."""

from __future__ import annotations

from collections import Counter
from typing import Final

import structlog

from tocsin.store.ports import Registry

log = structlog.get_logger(__name__)

COMPLAINED_FOR_DAYS: Final = 7
"""For so long a provider must have said of a device that it does not belong to its topic, and nothing else, while it
took pushes for others there. What a provider gets wrong, it has mended within a week; and an app that was installed
with the wrong topic registers again when it is next started."""
_AT_ONCE: Final = 500


async def quarantine_complaining(registry: Registry) -> None:
    """Put those devices into quarantine, in steps.

    Raises:
        WriteFailure: some may be there already; the rest follows the next time.
    """
    accounts: Counter[str] = Counter()
    while found := await registry.quarantine_complaining(COMPLAINED_FOR_DAYS, _AT_ONCE):
        accounts.update(device.complaint.account for device in found if device.complaint is not None)
    for account, count in sorted(accounts.items()):
        log.warning("devices are not for their topic: they are in quarantine", account=account, devices=count)
