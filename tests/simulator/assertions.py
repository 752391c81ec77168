"""What tests of the simulator assert, with one node and with several."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, Final

from tests.simulator.bugs import Bug, seeded
from tests.simulator.plan import Plan
from tests.simulator.run import Run
from tests.simulator.shrink import replay

_ROOT: Final = Path(__file__).parent.parent.parent
_LONGEST_S: Final = 280.0
"""For the seeds, a last one of several minutes, and to make one that fails smaller."""
_TAIL: Final = 40


def explained(run: Run, plan: Plan, own: Plan, more: str = "") -> str:
    """How to run it again, and how it ended.

    Args:
        plan: what was run.
        own: the plan that the program makes of the seed and of `more`.
        more: options of the command that replays it.
    """
    return "\n".join([f"replay with: {replay(plan, own, more)}", *run.lines[-_TAIL:], str(run.violation)])


def assert_nothing_is_found(*options: str) -> None:
    """By `python -m tests.simulator` with these options."""
    returned, printed = output_of([sys.executable, "-m", "tests.simulator", *options], _LONGEST_S)
    assert returned == 0, printed
    assert "No invariant was violated" in printed


def output_of(command: Sequence[str], longest_s: float) -> tuple[int, str]:
    """What it returns and prints. Where it does not end, what it has printed until then is not lost.

    Raises:
        AssertionError: it did not end within `longest_s`; with all that it has printed.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        run = subprocess.run(command, cwd=_ROOT, text=True, timeout=longest_s, **pipes)  # type: ignore[call-overload]
    except subprocess.TimeoutExpired as late:
        # Bytes also where text was asked for.
        printed = late.output.decode(errors="replace") if late.output else ""
        raise AssertionError(f"it has not ended within {longest_s:g} s:\n{printed}") from None
    return run.returncode, run.stdout


def assert_is_found(bug: Bug, run_seed: Callable[..., Run], more: str = "") -> None:
    """Within the bug's own number of seeds, and by an invariant that it names. `more`: see `explained`."""
    for seed in range(bug.first, bug.first + bug.within):
        plan: Any = bug.plan(seed)
        with seeded(bug):
            run = run_seed(seed, plan=plan)
        if run.violation is not None:
            command = explained(run, plan, plan, f"{more} --bug {quote(bug.name)}")
            assert run.violation.invariant in bug.found_by, command
            return
    raise AssertionError(f"{bug.within} seeds from {bug.first} on have not found it")
