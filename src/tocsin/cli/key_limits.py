"""What a key is limited to: read from the options of `tocsin key create`, and shown in `tocsin key list`."""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import StrEnum
from typing import Any, Final

from tocsin.cli.errors import InputError
from tocsin.domain.events import MESSAGES
from tocsin.store.records import Area, KeyLimits, Rate, Role

_RATE: Final = re.compile(r"([1-9][0-9]{0,6})/(s|min|h)")
_SECONDS: Final = {"s": 1, "min": 60, "h": 3600}


def key_limits(role: Role, *, events: str | None, rate: str | None, read_only: bool, area: str | None) -> KeyLimits:
    """The limits of a new key.

    Raises:
        InputError: an option has a wrong value, or is not for this role.
    """
    of_producers = {"--events": events is not None, "--rate": rate is not None}
    of_admins = {"--read-only": read_only, "--area": area is not None}
    for options, whose in ((of_producers, Role.PRODUCER), (of_admins, Role.ADMIN)):
        for option, given in options.items():
            if given and role is not whose:
                raise InputError(f"{option}: only for {whose} keys, and this is to be a {role} key")
    return KeyLimits(
        events=frozenset() if events is None else frozenset(_names(events, "--events", MESSAGES)),
        rate=None if rate is None else _rate(rate),
        read_only=read_only,
        areas=frozenset() if area is None else frozenset(Area(name) for name in _names(area, "--area", list(Area))),
    )


def shown(limits: KeyLimits) -> str:
    """The limits in a table; `-` where there are none."""
    parts = [] if limits.rate is None else [_rate_text(limits.rate)]
    parts += ["read-only"] if limits.read_only else []
    parts += [",".join(sorted(limits.events)), ",".join(sorted(limits.areas))]
    return " ".join(filter(None, parts)) or "-"


def described(limits: KeyLimits) -> dict[str, Any]:
    """The limits as JSON shows them; null where something is not limited."""
    return {
        "events": sorted(limits.events) or None,
        "rate": None if limits.rate is None else _rate_text(limits.rate),
        "read_only": limits.read_only,
        "areas": sorted(limits.areas) or None,
    }


def _names(text: str, option: str, known: Collection[str | StrEnum]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise InputError(f"{option} {text}: {name!r} is none of {', '.join(known)}")
    return names


def _rate(text: str) -> Rate:
    found = _RATE.fullmatch(text)
    if found is None:
        raise InputError(f"--rate {text}: must be a number of events per s, min or h, like 50/s or 1000/h")
    return Rate(int(found[1]), _SECONDS[found[2]])


def _rate_text(rate: Rate) -> str:
    unit = next((unit for unit, seconds in _SECONDS.items() if seconds == rate.per_s), f"{rate.per_s}s")
    return f"{rate.count}/{unit}"
