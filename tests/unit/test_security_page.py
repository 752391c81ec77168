"""docs/security.md promises nothing that no test guards: every test that it names is there, or marked as to come."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "security.md").read_text()


def test_every_test_that_the_page_names_is_there() -> None:
    written = {name for file in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)\(", file.read_text())}
    named = set(re.findall(r"`(test_\w+)`(?! †)", PAGE))
    assert len(named) > 40
    assert sorted(named - written) == []


def test_every_part_about_an_attacker_says_what_is_not_stopped() -> None:
    parts = PAGE.split("\n## ")[3:]
    without = [part.splitlines()[0] for part in parts if "*Not stopped:*" not in part]
    assert without == ["Power cuts and crashes"]
