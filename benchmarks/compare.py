"""`python -m benchmarks.compare --base DIR`: what a delivery costs in this checkout and in another one.

Each side is this file as a child process with the other tree's `src` and `benchmarks` on its path. It starts an
emulator and a server, registers users, and warms up. Then both deliver the same number of events by turns, and what
counts is the CPU time of the server's process. One process of the same code differs from the next by up to 3 %, so both
sides are started again after every few rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).resolve()
_USERS: Final = 10_000
_WARM_UP_ROUNDS: Final = 2
_ROUNDS_PER_START: Final = 4
_RESAMPLES: Final = 10_000
_CPUCLOCK_SCHED: Final = 2
FIGURES: Final = {"cpu_us": "CPU µs per delivery", "per_s": "deliveries per second"}

Round = dict[str, float]
"""The figures of one side in one round."""


class Side:
    """One checkout: a child process that delivers when it is asked to."""

    def __init__(self, checkout: Path, events: int, rest_s: float) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
        path = os.pathsep.join((str(checkout / "src"), str(checkout)))
        # -P: else this file's directory, with this checkout's modules, would come first.
        self._child = subprocess.Popen(
            [
                *(sys.executable, "-P", str(_HERE), "--side", str(checkout)),
                *("--events", str(events), "--rest", str(rest_s)),
            ],
            env=kept | {"PYTHONPATH": path},
            cwd=checkout,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def round(self) -> Round:
        assert self._child.stdin is not None
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        return self.read()

    def read(self) -> Round:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise SystemExit("a side has failed; its error is above")
        found: Round = json.loads(line)
        return found

    def close(self) -> None:
        """End of input: it ends its server and its emulator, and then itself."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(60)


def run_side(checkout: Path, events: int, rest_s: float) -> None:
    """Print a line when ready; then, for each line of the standard input, deliver and print the figures.

    What the server does in the `rest_s` after a delivery is counted with it.
    """
    # The figures alone go to standard output, whatever a library has to say.
    out, sys.stdout = sys.stdout, sys.stderr
    import tocsin
    from benchmarks import load

    try:
        from benchmarks.environment import Group, prepared
    except ModuleNotFoundError:  # their names in older checkouts
        from benchmarks.stage import Group, staged as prepared  # type: ignore  # noqa: I001
    for module in (tocsin, load):
        assert Path(module.__file__ or "").is_relative_to(checkout), module.__file__
    with prepared([Group(_USERS)]) as environment:
        environment.start_server()
        assert environment.server is not None
        clock = (~environment.server.pid << 3) | _CPUCLOCK_SCHED  # clock_getcpuclockid(3): all of its threads
        requests = load.batches(environment, events, environment.groups[0])
        for _ in range(_WARM_UP_ROUNDS):
            load.deliver(environment, requests, events)
        print("{}", file=out, flush=True)
        for _ in sys.stdin:
            before = time.clock_gettime(clock)
            took_s = load.deliver(environment, requests, events)
            time.sleep(rest_s)
            cpu_s = time.clock_gettime(clock) - before
            print(json.dumps({"cpu_us": cpu_s / events * 1e6, "per_s": events / took_s}), file=out, flush=True)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of their median, by bootstrap."""
    rng = random.Random(1)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return medians[int(_RESAMPLES * 0.025)], medians[int(_RESAMPLES * 0.975)]


def measure(checkouts: Sequence[Path], rounds: int, events: int, rest_s: float) -> Iterator[list[Round]]:
    """Start a process for each checkout, and yield its figures, round by round."""
    with ExitStack() as stack:
        sides = []
        for checkout in checkouts:
            side = Side(checkout, events, rest_s)
            stack.callback(side.close)
            side.read()  # it is ready: only then the next one is started
            sides.append(side)
        for number in range(rounds):
            # Each is the first in half of the rounds.
            order = sides if number % 2 == 0 else sides[::-1]
            found = {side: side.round() for side in order}
            yield [found[side] for side in sides]


def compare(base: Path, rounds: int, events: int, rest_s: float) -> list[str]:
    """The lines of the report."""
    checkouts, measured = (_HERE.parents[1], base), list[tuple[Round, Round]]()
    while len(measured) < rounds:
        some = min(_ROUNDS_PER_START, rounds - len(measured))
        # Each is started first in half of the starts.
        if len(measured) // _ROUNDS_PER_START % 2 == 0:
            measured += [(this, other) for this, other in measure(checkouts, some, events, rest_s)]
        else:
            measured += [(this, other) for other, this in measure(checkouts[::-1], some, events, rest_s)]
    lines = [
        f"{rounds} rounds of {events:,} events on each side, by turns",
        f"{'':24}{'this':>10}{'base':>10}   this/base, 95 % interval",
    ]
    for figure, title in FIGURES.items():
        this, other = ([found[side][figure] for found in measured] for side in (0, 1))
        ratios = [a / b for a, b in zip(this, other, strict=True)]
        low, high = interval(ratios)
        medians = f"{statistics.median(this):10,.2f}{statistics.median(other):10,.2f}"
        lines.append(f"{title:24}{medians}   {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    checkout = parser.add_mutually_exclusive_group(required=True)
    checkout.add_argument("--base", type=Path, metavar="DIR", help="the other checkout of tocsin")
    checkout.add_argument("--side", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--events", type=int, default=20_000, help="for each side in each round")
    parser.add_argument(
        "--rest",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="count also what the server does so long after each round, like filling the index of the search",
    )
    given = parser.parse_args()
    if given.side is not None:
        run_side(given.side, given.events, given.rest)
    else:
        print("\n".join(compare(given.base.resolve(), given.rounds, given.events, given.rest)))


if __name__ == "__main__":
    main()
