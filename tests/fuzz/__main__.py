"""`make fuzz`, `make fuzz-quick`: fuzzes everything that reads what comes from outside."""

from __future__ import annotations

import argparse
import sys
import time
from random import SystemRandom

from tests.fuzz.run import CANNOT, FOUND, fuzz, is_possible


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="in all, over all targets")
    parser.add_argument("--quick", action="store_true", help="two seconds for each target")
    parser.add_argument("--keep", action="store_true", help="add inputs to the corpus that reach what no other reaches")
    parser.add_argument("--seed", type=int, help="of what is drawn (default: a new one, which is printed)")
    arguments = parser.parse_args()
    if not is_possible():
        print(CANNOT, file=sys.stderr)
        return 1
    # 0 has libFuzzer draw one itself.
    seed = arguments.seed or SystemRandom().randrange(1, 1 << 32)
    print(f"Seed {seed}.", flush=True)
    started = time.monotonic()
    results = fuzz(arguments.inputs, seed, at_most_s=2 if arguments.quick else None, keep=arguments.keep)
    for one in results:
        print(f"{one.target:14}{one.inputs:>12,} inputs{'   FAILED' if one.failure else ''}")
        if one.failure:
            print(one.failure)
    total = sum(one.inputs for one in results)
    failed = [one.target for one in results if one.failure]
    print(f"{total:,} inputs in {time.monotonic() - started:.0f} s; failed: {', '.join(failed) or 'none'}")
    if failed:
        print(f"Each input that failed is in {FOUND}. Again:")
        for one in results:
            if one.failure and one.kept:
                print(f"  .venv/bin/python -m tests.fuzz.child {one.target} {one.kept}")
        print(f"  .venv/bin/python -m tests.fuzz --inputs {arguments.inputs} --seed {seed}   (all that led there)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
