"""`tocsin serve` in a directory, as a real process, with settings from its environment."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PATIENCE_S: Final = 60


@contextmanager
def serving(directory: Path, environment: dict[str, str]) -> Iterator[str]:
    """A server in this directory; gives its URL, and leaves its log in `log`."""
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "tocsin", "serve", "--ready-file", "ready"],
            cwd=directory,
            env=os.environ | {"TOCSIN_SERVER__PORT": "0"} | environment,
            stdout=log,
            stderr=log,
        )
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not (directory / "ready").exists():
                assert server.poll() is None, (directory / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield (directory / "ready").read_text().strip()
        finally:
            server.terminate()
            assert server.wait(PATIENCE_S) == 0
