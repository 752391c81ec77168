"""`python -m tests.power_loss`: records the stories and judges the states of all their cuts.

It ends with 1 where a state fails, where nothing could be tried, and where a whole run has tried too few.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import SystemRandom
from typing import Final

import structlog

from tests.power_loss import failures, recorder
from tests.power_loss.faults import FAULTS
from tests.power_loss.run import QUICK, Bounds, Result, judge_all
from tests.power_loss.stories import STORIES

_SAMPLES, _ROUNDS = 20, 16
LEAST_STATES: Final = 100_000
"""Of a run that nothing has made shorter."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.power_loss", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few states of each cut, drawn from the seed")
    parser.add_argument("--choices", type=int, help="so many states of each cut at most")
    parser.add_argument(
        "--samples",
        type=int,
        help=f"random subsets for each pending operation (default: {_SAMPLES}, quick: {QUICK.samples})",
    )
    parser.add_argument("--minutes", type=float, help="stop after so many, with what was tried by then")
    parser.add_argument("--seed", type=int, help="of the choices (default: a new one, which is printed)")
    parser.add_argument("--story", action="append", choices=list(STORIES), help="only this one (may be repeated)")
    parser.add_argument(
        "--fault", choices=list(FAULTS), default="", help="put this fault into tocsin: it has to be found"
    )
    parser.add_argument("--failures", type=int, default=10, help="stop after so many (default: %(default)s)")
    parser.add_argument(
        "--replay", type=Path, metavar="DIRECTORY", help="start on a state that was kept, and do nothing else"
    )
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    sys.exit(_replay(arguments.replay) if arguments.replay else _run(arguments))


def _replay(directory: Path) -> int:
    wrong = asyncio.run(failures.replay(directory))
    print("\n".join(wrong) or "Nothing is missing.")
    return 1 if wrong else 0


def _run(arguments: argparse.Namespace) -> int:
    seed = SystemRandom().getrandbits(32) if arguments.seed is None else arguments.seed
    fault = FAULTS.get(arguments.fault)
    stories = arguments.story or (fault.stories if fault else list(STORIES))
    rounds = recorder.ROUNDS if arguments.quick else _ROUNDS
    usual = QUICK if arguments.quick else Bounds(samples=_SAMPLES)
    bounds = Bounds(
        samples=usual.samples if arguments.samples is None else arguments.samples,
        choices=arguments.choices or usual.choices,
        until=None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes,
        failures=arguments.failures,
    )
    print(f"Seed {seed}. Recording: {', '.join(stories)}.", flush=True)
    # In memory, where there is such a place: a state is written, opened and thrown away.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="tocsin-power-loss-", dir=memory) as temporary:
        directory = Path(temporary)
        library = recorder.build(directory)
        if library is None:
            print(f"Nothing was tried: {recorder.CANNOT}.")
            return 1
        operations = recorder.record(library, directory / "run", stories, rounds=rounds, fault=arguments.fault)
        shutil.rmtree(directory / "run")
        result = asyncio.run(judge_all(operations, directory, seed, bounds, _print_story))
    _print(result)
    made_shorter = arguments.quick or arguments.choices or arguments.minutes or arguments.story or arguments.fault
    least = 1 if made_shorter else LEAST_STATES
    if result.states.total() < least and not result.failures:
        print(f"These are too few: such a run has at least {least:,} different states. Was a story made shorter?")
        return 1
    return 1 if result.failures else 0


def _print_story(story: str, result: Result) -> None:
    print(f"  {story:<24}{result.cuts[story]:>6} cuts {result.states[story]:>8,} states", flush=True)


def _print(result: Result) -> None:
    states, cpu_s = result.states.total(), time.process_time()
    print(f"{states:,} different states of {result.cuts.total():,} cuts, judged {result.judged:,} times,", end=" ")
    print(f"in {result.took_s:.0f} s ({cpu_s:.0f} s of CPU).")
    if not result.complete:
        print("The time was over before all states were tried.")
    print(failures.kept(result.failures) or "Nothing that was answered is missing.")


if __name__ == "__main__":
    main()
