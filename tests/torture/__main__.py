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
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from tests.torture.run import LONG, QUICK, torture

_END_S: Final = 40
"""For ending the processes of a run that was given up: with the time of a long run this makes ten minutes."""


class Sized(Protocol):
    """A plan says when its run is given up."""

    @property
    def most_s(self) -> float: ...


P = TypeVar("P", bound=Sized)
Torture = Callable[[P, int, Path, Callable[[str], None]], Coroutine[Any, Any, tuple[bool, list[str]]]]


def run_torture(program: str, description: str | None, plans: Mapping[str, tuple[P, str]], torture: Torture[P]) -> int:
    """Read the arguments, run the plan that they choose, and print the report. Returns the exit status.

    Args:
        plans: by the name of their option, with its help.
    """
    parser = argparse.ArgumentParser(prog=program, description=description)
    size = parser.add_mutually_exclusive_group(required=True)
    for name, (_, what) in plans.items():
        size.add_argument(f"--{name}", dest="plan", action="store_const", const=name, help=what)
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

    plan, _ = plans[given.plan]
    # It gives up by itself before that. If it does not, it ends here, with status 1 and a traceback.
    faulthandler.dump_traceback_later(plan.most_s + _END_S, exit=True)
    good, lines = asyncio.run(torture(plan, seed, directory, say))
    faulthandler.cancel_dump_traceback_later()
    print("\n".join(lines))
    if good and not given.keep:
        shutil.rmtree(directory)
    return 0 if good else 1


_PLANS: Final = {
    "quick": (QUICK, "under a minute where nobody else uses the machine"),
    "long": (LONG, "100,000 events and more than 50 kills, in ten minutes at most"),
}

if __name__ == "__main__":
    sys.exit(run_torture("python -m tests.torture", __doc__, _PLANS, torture))
