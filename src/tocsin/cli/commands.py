"""How commands are declared: each with an example that can be pasted, and the options that many of them share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import typer
from typer.core import TyperCommand

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


class TextCommand(TyperCommand):
    """A command whose options and arguments are text, and no other bytes. The names of files may be any bytes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        left = super().parse_args(ctx, args)
        for parameter in self.get_params(ctx):
            given = ctx.params.get(parameter.name)
            for value in given if isinstance(given, list | tuple) else [given]:
                if isinstance(value, str) and not is_text(value):
                    raise typer.BadParameter("not UTF-8", ctx, param=cast(Any, parameter))
        return left


def is_text(value: str) -> bool:
    """Whether an argument is text: what Python makes of bytes that are not UTF-8 cannot be encoded again."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def group(help: str) -> typer.Typer:
    """A group of commands. Its help is plain text, so that an example is not changed in a narrow terminal or a pipe."""
    return typer.Typer(
        help=help, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False
    )


def command(app: typer.Typer, name: str, *, example: str) -> Callable[[Body], Body]:
    """Register a command whose help ends with `example`, with its lines as they are."""
    lines = "\n".join(f"  {line}" for line in example.strip().splitlines())
    return app.command(name, cls=TextCommand, epilog=f"\b\nExample:\n{lines}")
