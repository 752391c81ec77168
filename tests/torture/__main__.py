"""`python -m tests.torture --quick | --long`: exit 0 where every event is accounted for, else 1."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.torture.run import LONG, QUICK, torture

_END_S: Final = 40
"""For ending the processes of a run that was given up: with the time of a long run this makes ten minutes."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--quick", action="store_true", help="under a minute where nobody else uses the machine")
    size.add_argument(
        "--long", action="store_true", help="100,000 events and more than 50 kills, in ten minutes at most"
    )
    parser.add_argument("--seed", type=int, help="for the random choices; another one each time by default")
    parser.add_argument("--keep", action="store_true", help="keep the files of a run that passed, too")
    parser.add_argument("--verbose", action="store_true", help="print what fails, and when")
    given = parser.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    directory = Path(tempfile.mkdtemp(prefix="tocsin-torture-"))
    started = time.monotonic()
    print(f"seed {seed}, files in {directory}", flush=True)

    def say(line: str) -> None:
        if given.verbose:
            print(f"{time.monotonic() - started:6.1f}  {line}", flush=True)

    plan = LONG if given.long else QUICK
    # It gives up by itself before that. If it does not, it ends here, with status 1 and a traceback.
    faulthandler.dump_traceback_later(plan.most_s + _END_S, exit=True)
    good, lines = asyncio.run(torture(plan, seed, directory, say))
    faulthandler.cancel_dump_traceback_later()
    print("\n".join(lines))
    if good and not given.keep:
        shutil.rmtree(directory)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
