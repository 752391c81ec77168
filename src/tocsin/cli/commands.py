"""How commands are declared: each with an example that can be pasted, and the options that many of them share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

Body = TypeVar("Body", bound=Callable[..., None])

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="TOCSIN_CONFIG",
        metavar="FILE",
        help="The configuration. Without it ./tocsin.toml, where there is one, else the defaults.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def group(help: str) -> typer.Typer:
    """A group of commands. Its help is plain text, so that an example is not changed in a narrow terminal or a pipe."""
    return typer.Typer(
        help=help, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False
    )


def command(app: typer.Typer, name: str, *, example: str) -> Callable[[Body], Body]:
    """Register a command whose help ends with `example`, with its lines as they are."""
    lines = "\n".join(f"  {line}" for line in example.strip().splitlines())
    return app.command(name, epilog=f"\b\nExample:\n{lines}")
