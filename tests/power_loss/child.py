"""The recorded process: tells stories, one after the other.

    python -m tests.power_loss.child ROOT ELSEWHERE ROUNDS FAULT STORY...

What is done below ROOT is recorded. FAULT is the name of a fault that is put into tocsin first, or empty.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.power_loss import faults
from tests.power_loss.stories import tell
from tests.power_loss.told import Told
from tocsin.store.sqlite import connection, housekeeping, search_index


def main() -> None:
    root, elsewhere, rounds, fault, *stories = sys.argv[1:]
    # So small that the stories, which are short, go through checkpoints and give pages back.
    connection._CHECKPOINT_PAGES = 40  # type: ignore[misc]
    search_index._CHECKPOINT_STEPS = 4  # type: ignore[misc]
    housekeeping._SPARE_PAGES = 4  # type: ignore[misc]
    housekeeping._VACUUM_PAGES = (10, 20)  # type: ignore[misc]
    if fault:
        faults.put(fault)
    told = Told()
    for story in stories:
        asyncio.run(tell(story, Path(root), Path(elsewhere), told, int(rounds)))


if __name__ == "__main__":
    main()
