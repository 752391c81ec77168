"""Many seeds, shared by several processes."""

from __future__ import annotations

import re
import sys

import pytest

from tests.simulator import __main__ as command
from tests.simulator.bugs import BY_NAME

_TIMES = re.compile(r" in \d+ s \(.* a seed\)")
BUG = BY_NAME["one bound of memory for all"]


def _said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["simulator", *arguments])
    return command.main(), _TIMES.sub("", capsys.readouterr().out)


def test_two_processes_find_what_one_finds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    alone = _said(monkeypatch, capsys, "--seeds", "6")
    assert alone[0] == 0
    assert "6 seeds" in alone[1]
    assert _said(monkeypatch, capsys, "--seeds", "6", "--jobs", "2") == alone


def test_a_seed_that_fails_in_another_process_is_told_with_its_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_SHRINK_RUNS", 1)
    arguments = ["--seeds", "2", "--first", "2", "--bug", BUG.name]
    alone = _said(monkeypatch, capsys, *arguments)
    assert alone[0] == 1
    assert "VIOLATION" in alone[1]
    shared = _said(monkeypatch, capsys, *arguments, "--jobs", "2")
    real = re.compile(r" simulated seconds in [\d.]+ s")
    assert (shared[0], real.sub("", shared[1])) == (1, real.sub("", alone[1]))
