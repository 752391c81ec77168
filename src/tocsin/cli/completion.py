"""`tocsin completion`: what a shell needs to complete commands and options. The scripts ask tocsin."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated, Final

import typer
from typer._completion_classes import completion_init
from typer._completion_shared import get_completion_script

VARIABLE: Final = "_TOCSIN_COMPLETE"
"""With it in the environment tocsin is asked what may stand at the cursor."""


_ZSH: Final = r"""#compdef tocsin

_tocsin_completion() {
  local found twice="''" quoted="'\\''"
  found="$(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" @VARIABLE@=complete_zsh tocsin)"
  # What each is for stands in quotes, with its apostrophes doubled.
  eval "${found//$twice/$quoted}"
}

if [[ $zsh_eval_context[-1] == *func ]]; then
  _tocsin_completion "$@"
else
  compdef _tocsin_completion tocsin
fi
"""
"""Not the library's: that one completes nothing at the first Tab in a directory of `fpath`, and loses apostrophes."""


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="Whose script: bash, zsh or fish.")]) -> None:
    """Print the script that completes tocsin's commands and options in a shell.

    For bash write it to `~/.local/share/bash-completion/completions/tocsin`, for zsh to `_tocsin` in a directory of
    `fpath`, for fish to `~/.config/fish/completions/tocsin.fish`.
    """
    if shell is Shell.ZSH:
        typer.echo(_ZSH.replace("@VARIABLE@", VARIABLE), nl=False)
    else:
        typer.echo(get_completion_script(prog_name="tocsin", complete_var=VARIABLE, shell=shell.value))


def answer_shells() -> None:
    """Where a shell asks, its kind is known from here on."""
    if VARIABLE in os.environ:
        completion_init()
