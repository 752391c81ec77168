"""The short run of `python -m tests.torture`; docs/torture.md describes it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.torture.processes import ROOT, environment


@pytest.mark.timeout(330)  # a minute where nobody else uses the machine
def test_every_event_is_accounted_for_after_a_minute_of_kills_and_faults() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--quick"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout
    assert "All accounted for" in run.stdout
