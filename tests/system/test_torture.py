"""The short runs of `tests.torture` and `tests.cluster.torture`; docs/torture.md and torture-cluster.md say more."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.torture.operators import COMMANDS, Operator
from tests.torture.processes import ROOT, environment
from tests.torture.something_to_do import SomethingToDo


@pytest.mark.timeout(330)  # a minute where nobody else uses the machine
def test_every_event_is_accounted_for_after_a_minute_of_kills_and_faults() -> None:
    passes("tests.torture")


def test_every_event_is_accounted_for_after_faults_of_nodes_database_and_bus_of_a_cluster() -> None:
    passes("tests.cluster.torture")


def test_a_command_that_was_never_possible_is_named() -> None:
    """The long run fails with it."""
    counts = {f"command: {name}": 1 for name in COMMANDS if name != "store rekey"}
    counts |= {"command: store rekey, not possible then": 7}
    nobody: Any = None
    operator = Operator(nobody, nobody, [], SomethingToDo(), Path(), counts, random.Random(1), print)
    assert operator.never_done == ["store rekey"]


def passes(program: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", program, "--quick"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout
    assert "All accounted for" in run.stdout
