"""Times as this API writes them: RFC 3339, UTC, to the millisecond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(unix_ms: int) -> str:
    """`1362407297123` as `2013-03-04T14:28:17.123Z`; what no calendar has, as its first or last moment."""
    try:
        moment = _EPOCH + timedelta(milliseconds=unix_ms)
    except OverflowError:
        moment = (datetime.max if unix_ms > 0 else datetime.min).replace(tzinfo=UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
