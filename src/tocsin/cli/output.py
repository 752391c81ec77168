"""What commands print: JSON for programs, aligned columns for people. Data goes to stdout, remarks to stderr.

Data that cannot be written (a full disk, a reader that has gone) is an OSError, which ends the command; a remark that
cannot be written is left out (`cli.streams`).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import typer

from tocsin.api.timestamps import rfc3339
from tocsin.cli.errors import CommandError

_LEAST_WIDTH: Final = 9
_LONG: Final = frozenset(
    {
        "account",
        "answer",
        "application",
        "complaint",
        "credential",
        "details",
        "device",
        "from",
        "lane",
        "limits",
        "name",
    }
    | {"owner", "reached through", "reason", "service account", "subject", "token", "was reached through", "who"}
)
"""The columns whose cells may be cut: no ids of events, keys and sessions, which are copied into other commands."""


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def printable(text: str) -> str:
    """On one line and without control characters, whatever somebody has called something."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Print columns. In a pipe they are as wide as their widest cell, and nothing is cut, so that a token can be
    copied; on a terminal they fit it (`print_fitting`).

    `empty` goes to stderr when there are no rows.
    """
    print_fitting(columns, rows, cut=_LONG, width=terminal_width(), empty=empty)


def print_fitting(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, cut: Collection[str], width: int | None, empty: str
) -> None:
    """The same, in `width` columns of characters where it is given: the cells of the columns `cut` lose what stands in
    their middle, those that are the longest first. Where that is not enough, each cell has a line of its own."""
    if not rows:
        remark(empty)
        return
    lines = [[column.upper() for column in columns], *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    if width is not None:
        too_wide = sum(widths) + 2 * (len(columns) - 1) - width
        for _ in range(max(0, too_wide)):
            candidates = [index for index, name in enumerate(columns) if name in cut and widths[index] > _LEAST_WIDTH]
            if not candidates:
                _print_cells(columns, rows, cut, width)
                return
            widths[max(candidates, key=widths.__getitem__)] -= 1
        lines = [[cut_middle(cell, most) for cell, most in zip(line, widths, strict=True)] for line in lines]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _print_cells(columns: Sequence[str], rows: Sequence[Sequence[str]], cut: Collection[str], width: int) -> None:
    """A line for each cell, and an empty one after each row."""
    names = max(map(len, columns))
    for row in rows:
        for name, cell in zip(columns, row, strict=True):
            shown = cut_middle(cell, max(_LEAST_WIDTH, width - names - 2)) if name in cut else cell
            typer.echo(f"{name.upper().ljust(names)}  {shown}".rstrip())
        typer.echo()


def terminal_width() -> int | None:
    """How many characters a line of the terminal has; None where standard output is none: there nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def cut_middle(text: str, most: int) -> str:
    """The text in at most so many characters: what stands in its middle is left out."""
    if len(text) <= most:
        return text
    first = (most - 1) // 2
    return f"{text[:first]}…{text[len(text) - (most - 1 - first) :]}"


@contextmanager
def kept_if_printed(what: str, revoke: Callable[[], object]) -> Iterator[None]:
    """Prints a new secret in the block; where it cannot be printed nobody has it, and it is revoked.

    Raises:
        CommandError: it could not be printed.
    """
    try:
        yield
    except OSError as error:
        revoke()
        raise CommandError(
            f"standard output: {error.strerror}; the {what} could not be printed, and is revoked"
        ) from None


def remark(text: str) -> None:
    """Print something for the person at the terminal to stderr, so that a pipe has data alone."""
    typer.echo(text, err=True)


def utc(ms: int | None) -> str:
    """Unix milliseconds, to the second, as tables show a time; None is `never`."""
    return "never" if ms is None else utc_of(rfc3339(ms))


def utc_of(at: str) -> str:
    """A time of the API (RFC 3339, UTC), to the second, as tables show it."""
    day, _, time = at.partition("T")
    return f"{day} {time[:8]} UTC"


def iso(ms: int | None) -> str | None:
    """Unix milliseconds as JSON shows a time."""
    return None if ms is None else rfc3339(ms)
