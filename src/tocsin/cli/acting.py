"""Who runs a command, as the audit log names them."""

from __future__ import annotations

import os
import pwd

from tocsin.domain.actors import COMMAND_LINE, Actor, ActorKind


def command_line() -> Actor:
    """The account that runs this command. Behind sudo, the one that has called it is named, too: the log then says
    what sudo says, which only root could forge."""
    name = _name(os.getuid())
    behind = os.environ.get("SUDO_UID", "")
    if os.getuid() == 0 and behind.isascii() and behind.isdigit():
        name = f"{name} (sudo by {_name(int(behind))})"
    return Actor(ActorKind.SYSTEM_USER, name, COMMAND_LINE)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):  # In a container the account may have no name.
        return f"uid {uid}"
