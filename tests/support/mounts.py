"""Runs programs where something is mounted that nobody else sees: in a mount namespace of their own."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

_OWN_MOUNTS: Final = ("unshare", "--user", "--map-root-user", "--mount")


@cache
def can_mount() -> bool:
    """Whether this system lets its user do so."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run([*_OWN_MOUNTS, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    return tried.returncode == 0


def mounting(mount: str, *command: str | Path) -> list[str]:
    """The command line that mounts (by a line for the shell), and then runs `command`."""
    return [*_OWN_MOUNTS, "sh", "-c", f'{mount} && exec "$@"', "sh", *map(str, command)]
