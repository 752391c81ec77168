"""Reads and checks what commands are given: files, user ids, durations."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import typer

from tocsin.cli.errors import InputError
from tocsin.domain.events import UserId

_DURATION: Final = re.compile(r"([0-9]{1,6})([smhdw])")
_LARGEST_BYTES: Final = 1024 * 1024
_LONGEST: Final = timedelta(days=36_500)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read_file(path: Path, option: str) -> bytes:
    """The content of the file that `option` names.

    Raises:
        InputError: it cannot be read, or is larger than any key, certificate or secret.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{option} {path}: {error.strerror}; name another file") from None
    if len(content) > _LARGEST_BYTES:
        raise InputError(f"{option} {path}: larger than {_LARGEST_BYTES} bytes; name another file")
    return content


def read_secret(path: Path, option: str, what: str = "secret") -> str:
    """A secret (or `what` else no argument may hold): the text in the file that `option` names, or on standard input
    where that is `-`; without the newline.

    Raises:
        InputError: it cannot be read, is empty, or is not text. The message does not repeat it.
    """
    content = sys.stdin.buffer.read(_LARGEST_BYTES) if path == Path("-") else read_file(path, option)
    try:
        secret = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputError(f"{option} {path}: not UTF-8; a {what} is text") from None
    if not secret:
        raise InputError(f"{option} {path}: empty; the {what} must stand in it")
    return secret


def id_or_secret(id: str | None, prefix: str, file: Path | None, option: str) -> str:
    """What is to be revoked: its id, which begins with `prefix`, or the secret in the file that `option` names.

    Raises:
        InputError: not one of both was given, or something else than an id. It may be a secret: no message repeats it.
    """
    if (id is None) == (file is None):
        raise InputError(f"give either the ID, or {option} FILE")
    if file is not None:
        return read_secret(file, option)
    if id is None or not id.startswith(prefix):
        raise InputError(
            f"ID: must be an id, like {prefix}3f9a1c5be207; a secret is not given on the command line, where other"
            f" users of this machine can read it: use {option} FILE, or {option} - to give it on standard input"
        )
    return id


def confirm(question: str) -> None:
    """Ask on standard error, for a command whose `--yes` answers.

    Raises:
        InputError: the answer was not yes.
    """
    try:
        typer.confirm(question, abort=True, err=True)
    except typer.Abort:
        raise InputError("not confirmed; nothing was changed (--yes answers for you)") from None


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
        InputError: it is neither, or longer than 36,500 days.
    """
    if text == "never":
        return None
    match = _DURATION.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise InputError(f"{option} {text}: must be a number with a unit (s, m, h, d or w), like 90d, or never")
    duration = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if duration > _LONGEST:
        raise InputError(f"{option} {text}: must be at most {_LONGEST.days}d")
    return duration // timedelta(milliseconds=1)
