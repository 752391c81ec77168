"""What commands that print page by page have in common: where a page begins, and how the next one is asked for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from tocsin.cli.errors import InputError
from tocsin.cli.output import remark
from tocsin.store.ports import UnknownCursor
from tocsin.store.records import Cursor

Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many, newest first.")]
Start = Annotated[
    str | None, typer.Option("--start", metavar="CURSOR", help="Where to go on, as the page before says.")
]


def cursor_of(start: str | None) -> Cursor | None:
    return None if start is None else Cursor(start)


@contextmanager
def page_of(command: str, start: str | None) -> Iterator[None]:
    """The block reads the page of `command` that begins at `start`.

    Raises:
        InputError: no page begins there.
    """
    try:
        yield
    except UnknownCursor:
        raise InputError(
            f"--start {start}: not valid: use the value that `tocsin {command}` printed after `--start`"
        ) from None


def say_where_to_go_on(command: str, following: Cursor | None) -> None:
    """Tell the person at the terminal that there is another page, where there is one."""
    if following is not None:
        remark(f"There are more: tocsin {command} --start {shlex.quote(following)}")
