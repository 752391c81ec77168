"""The errors that end a command: one sentence with the thing, the rule and the remedy, and an exit status."""

from __future__ import annotations


class CommandError(Exception):
    """The command was understood and did not succeed. The message is printed to standard error."""

    exit_code = 1


class InputError(CommandError):
    """What was given breaks a rule; nothing was changed."""

    exit_code = 2
