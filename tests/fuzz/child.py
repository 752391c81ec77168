"""The process that fuzzes one target, and ends at the first input that fails.

python -m tests.fuzz.child TARGET [libFuzzer's own arguments: -runs=…, the directory of the corpus, …]
"""

from __future__ import annotations

import logging
import sys

import atheris
import structlog


def main() -> None:
    name = sys.argv.pop(1)
    # For a merge, libFuzzer starts itself again, through a shell.
    sys.argv[0] = f"{sys.executable} -m tests.fuzz.child {name}"
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    # What leads the fuzzer is which lines of tocsin are reached.
    with atheris.instrument_imports(include=["tocsin"], enable_loader_override=False):
        from tests.fuzz.targets import made

        run = made(name)
    atheris.Setup(sys.argv, run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
