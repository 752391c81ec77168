"""What commands are given, read and judged: files, user ids, application ids, durations."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from tocsin.cli.errors import InputError
from tocsin.domain.devices import APPLICATION_ID, ApplicationId
from tocsin.domain.events import UserId

_DURATION: Final = re.compile(r"(\d{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def now_ms() -> int:
    return int(time.time() * 1000)


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def user_id(text: str, option: str = "--owner") -> UserId:
    """A user's UUID, in lower case."""
    try:
        return UserId(str(UUID(text)))
    except ValueError:
        raise InputError(
            f"{option} {text}: not a UUID; a user is named like 9aed5e94-3803-11e3-8475-0024e8f90cc0"
        ) from None


def application_id(text: str) -> ApplicationId:
    if not APPLICATION_ID.fullmatch(text):
        raise InputError(
            f"application id {text}: must be the team id, a dot and the bundle id, like 39JSDKGJ38.de.cospace.app"
        )
    return ApplicationId(text)


def expiry_ms(text: str, option: str = "--expires-in") -> int | None:
    """When something that lasts `text` from now ends, in Unix milliseconds; `never` is None."""
    if text == "never":
        return None
    match = _DURATION.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise InputError(f"{option} {text}: must be a number with a unit (s, m, h, d or w), like 90d, or never")
    return now_ms() + int(timedelta(**{_UNITS[match[2]]: int(match[1])}).total_seconds() * 1000)
