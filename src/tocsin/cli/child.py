"""Runs `tocsin` as a child of another program: `python -m tocsin.cli.child serve …`. It ends when its parent has ended.

The parent holds the other end of standard input, and never writes to it. It is closed with the parent, however that
ends: by SIGKILL, too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Final

from tocsin.cli import main

_STOP_WITHIN_S: Final = 12.0


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOP_WITHIN_S)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    main(sys.argv[1:])
