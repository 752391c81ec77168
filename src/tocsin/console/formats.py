"""How values are shown: numbers, times, tokens. Pure functions, used by the templates as filters."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

_UNITS: Final = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_SHORT_TOKEN: Final = 18
_NO_BREAK: Final = "\N{NO-BREAK SPACE}"
"""Between a number and its unit: a line does not end there."""


def parse_time(text: str) -> datetime:
    """An RFC 3339 time of the API, or one of a form: without a zone it is UTC."""
    at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def clock(text: str | None) -> str:
    """`21:04:17.352`, in UTC."""
    if not text:
        return "–"
    at = parse_time(text).astimezone(UTC)
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}"


def day_and_time(text: str | None) -> str:
    """`26 Nov 2026, 21:04:17 UTC`."""
    if not text:
        return "–"
    at = parse_time(text).astimezone(UTC)
    return f"{at.day} {at:%b %Y, %H:%M:%S} UTC"


def duration(seconds: float | None) -> str:
    """`3 min 20 s`: the two largest units; below ten seconds with a tenth, below one in milliseconds."""
    if seconds is None:
        return "–"
    seconds = max(0.0, seconds)
    if seconds < 1:
        return _with_unit(f"{seconds * 1000:.0f}", "ms")
    if seconds < 10:
        return _with_unit(f"{seconds:.1f}".removesuffix(".0"), "s")
    left, parts = round(seconds), []
    for unit, size in _UNITS:
        if left >= size:
            parts.append(_with_unit(left // size, unit))
            left %= size
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts)


def ago(text: str | None, now: datetime) -> str:
    """`3 min 20 s ago`, or `in 3 min` for a time to come."""
    if not text:
        return "never"
    since = (now - parse_time(text)).total_seconds()
    if abs(since) < 1:
        return "now"
    return f"{_largest(since)} ago" if since > 0 else f"in {_largest(-since)}"


def _largest(seconds: float) -> str:
    for unit, size in _UNITS:
        if seconds >= size:
            return _with_unit(int(seconds // size), unit)
    return _with_unit(1, "s")


def _with_unit(number: object, unit: str) -> str:
    return f"{number}{_NO_BREAK}{unit}"


def since(later: str | None, earlier: str | None) -> str:
    """How long after `earlier` it was: `+42 ms`."""
    if not later or not earlier:
        return ""
    return f"+{duration((parse_time(later) - parse_time(earlier)) / timedelta(seconds=1))}"


def count(number: float | None) -> str:
    """`12,345`."""
    return "–" if number is None else f"{number:,.0f}"


def rate(number: float | None) -> str:
    """A number a second: `0`, `0.4`, `12`, `12,345`."""
    if number is None:
        return "–"
    if number == 0 or number >= 10:
        return f"{number:,.0f}"
    return f"{number:.1f}"


def milliseconds(number: float | None) -> str:
    """`4.2 ms`, `87 ms`, `1.4 s`."""
    if number is None:
        return "–"
    if number >= 1000:
        return duration(number / 1000)
    return _with_unit(f"{number:.1f}" if number < 10 else f"{number:.0f}", "ms")


def size(number: float | None) -> str:
    """`4.6 KB`."""
    if number is None:
        return "–"
    for unit in ("bytes", "KB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return _with_unit(f"{number:,.0f}" if unit == "bytes" or number >= 100 else f"{number:.1f}", unit)
        number /= 1000
    return ""


def with_clock(text: str, now: datetime) -> str:
    """A sentence of the API, with its times as people read them: `22:28:04`, on another day with the date."""

    def shown(found: re.Match[str]) -> str:
        at = parse_time(found.group())
        return f"{at:%H:%M:%S} UTC" if at.date() == now.date() else day_and_time(found.group())

    return _TIME.sub(shown, text)


def quoted(text: str) -> list[str]:
    """A sentence in parts: those at odd places stood between backticks, as commands and names do."""
    return text.split("`") if text.count("`") % 2 == 0 else [text]


def short(token: str | None) -> str:
    """The two ends of a device token or an id that is long."""
    if not token:
        return ""
    return token if len(token) <= _SHORT_TOKEN else f"{token[:9]}…{token[-6:]}"


def anchor(token: str) -> str:
    """Where a device stands on its page, in an address: browsers keep those, so it tells nothing of the token."""
    return f"d-{sha256(token.encode()).hexdigest()[:12]}"


def pretty_json(value: Any) -> str:
    """JSON for people to read."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def plural(number: int, one: str, more: str | None = None) -> str:
    """`1 phone`, `2 phones`."""
    return f"{number:,} {one if number == 1 else more or one + 's'}"
