"""A whole cluster as processes; docs/scale.md describes its demo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from tests.cluster.run import FULL, too_little
from tests.torture.processes import ROOT, environment

pytestmark = pytest.mark.slow


def processes_with(mark: str) -> list[str]:
    """The command lines of all processes with this in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it has ended
    return found


def test_a_torture_in_which_less_was_tried_than_is_promised_has_failed() -> None:
    assert too_little(FULL, 53, 100_000) == []
    assert too_little(FULL, 53, 99_999) == ["99999 events were accepted, of 100000"]
    assert too_little(FULL, 50, 84_000) == ["50 faults were made, of 53", "84000 events were accepted, of 100000"]


def test_the_demo_of_a_cluster_shows_that_every_phone_rang_and_leaves_no_process_behind() -> None:
    mark = f"demo-{uuid4().hex}"
    run = subprocess.run(
        [sys.executable, "-m", "tests.cluster.demo", "--once"],
        cwd=ROOT,
        env=environment({"TEST_MARK": mark}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )
    assert run.returncode == 0, run.stdout
    assert "delivery-1 is killed" in run.stdout
    assert "the standby promoted" in run.stdout
    assert "Every phone rang" in run.stdout
    if os.path.isdir("/proc/self"):
        assert processes_with(mark) == []
