"""What a command says when it cannot do its work: the thing, the rule and the remedy, never a traceback."""

from __future__ import annotations


class CommandError(Exception):
    """The command was understood and did not succeed."""

    exit_code = 1


class InputError(CommandError):
    """What was given breaks a rule; nothing was changed."""

    exit_code = 2
