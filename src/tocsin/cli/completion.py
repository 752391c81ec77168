"""`tocsin completion`: what a shell needs to complete commands and options. The library's own scripts ask tocsin."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated, Final

import typer
from typer._completion_classes import completion_init
from typer._completion_shared import get_completion_script

VARIABLE: Final = "_TOCSIN_COMPLETE"
"""With it in the environment tocsin is asked what may stand at the cursor."""


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="Whose script: bash, zsh or fish.")]) -> None:
    """Print the script that completes tocsin's commands and options in a shell.

    For bash write it to `~/.local/share/bash-completion/completions/tocsin`.
    """
    typer.echo(get_completion_script(prog_name="tocsin", complete_var=VARIABLE, shell=shell.value))


def answer_shells() -> None:
    """Where a shell asks, its kind is known from here on."""
    if VARIABLE in os.environ:
        completion_init()
