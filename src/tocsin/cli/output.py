"""What commands print: JSON for programs, aligned columns for people. Data goes to stdout, remarks to stderr."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import typer

from tocsin.api.timestamps import rfc3339


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


def remark(text: str) -> None:
    """Print something for the person at the terminal to stderr, so that a pipe has data alone."""
    typer.echo(text, err=True)


def utc(ms: int | None) -> str:
    """Unix milliseconds, to the second, as tables show a time; None is `never`."""
    return "never" if ms is None else f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def iso(ms: int | None) -> str | None:
    """Unix milliseconds as JSON shows a time."""
    return None if ms is None else rfc3339(ms)
