"""Reads and checks what commands are given: files, user ids, durations."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from tocsin.cli.errors import InputError
from tocsin.domain.events import UserId

_DURATION: Final = re.compile(r"(\d{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def user_id(text: str, option: str = "--owner") -> UserId:
    """A user's UUID, in lower case.

    Raises:
        InputError: it is not a UUID.
    """
    try:
        return UserId(str(UUID(text)))
    except ValueError:
        raise InputError(
            f"{option} {text}: not a UUID; a user is named like 9aed5e94-3803-11e3-8475-0024e8f90cc0"
        ) from None


def duration_ms(text: str, option: str = "--expires-in") -> int | None:
    """A duration like `12h` in milliseconds; None for `never`.

    Raises:
        InputError: it is neither.
    """
    if text == "never":
        return None
    match = _DURATION.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise InputError(f"{option} {text}: must be a number with a unit (s, m, h, d or w), like 90d, or never")
    return int(timedelta(**{_UNITS[match[2]]: int(match[1])}).total_seconds() * 1000)
