"""The one rule for files that hold a secret of the server: keys, and what it signs in with.

Nobody but the owner may read or change such a file. Where it belongs to root, its group may: so are secrets mounted
into containers, and so is `/etc/ssl/private` kept.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def readable_by_others(path: Path, status: os.stat_result) -> str | None:
    """What is wrong with the rights of a file, as the end of a sentence, with the remedy; None where they are right."""
    of_root = status.st_uid == 0
    allowed = stat.S_IRWXU | (stat.S_IRGRP if of_root else 0)
    mode = stat.S_IMODE(status.st_mode)
    if mode & ~allowed & 0o777:
        return f"others may read or change it (mode {mode:04o}); run `chmod 600 {path}`"
    return None
