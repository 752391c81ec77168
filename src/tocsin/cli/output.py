"""What commands print: JSON for programs, aligned columns for people. Data goes to stdout, remarks to stderr.

Data that cannot be written (a full disk, a reader that has gone) is an OSError, which ends the command; a remark that
cannot be written is left out (`cli.streams`).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import typer

from tocsin.api.timestamps import rfc3339
from tocsin.cli.errors import CommandError

_LEAST_WIDTH: Final = 9


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Print columns as wide as their widest cell: nothing is cut, so that a token can be copied.

    `empty` goes to stderr when there are no rows.
    """
    if not rows:
        remark(empty)
        return
    lines = [[column.upper() for column in columns], *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_fitting(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, cut: Sequence[str], width: int | None, empty: str
) -> None:
    """The same, in `width` columns of characters where it is given: the cells of the columns `cut` lose what stands in
    their middle, those that are the longest first."""
    if rows and width is not None:
        widths = [max(len(cell) for cell in cells) for cells in zip(columns, *rows, strict=True)]
        too_wide = sum(widths) + 2 * (len(columns) - 1) - width
        for _ in range(max(0, too_wide)):
            candidates = [index for index, name in enumerate(columns) if name in cut and widths[index] > _LEAST_WIDTH]
            if not candidates:
                break
            widths[max(candidates, key=widths.__getitem__)] -= 1
        rows = [[cut_middle(cell, most) for cell, most in zip(row, widths, strict=True)] for row in rows]
    print_table(columns, rows, empty=empty)


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
    if ms is None:
        return "never"
    day, _, time = rfc3339(ms).partition("T")
    return f"{day} {time[:8]} UTC"


def iso(ms: int | None) -> str | None:
    """Unix milliseconds as JSON shows a time."""
    return None if ms is None else rfc3339(ms)
