"""Reads the emulator's journal while it is written: a line for every push that was accepted, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec


class JournalReader:
    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._at = 0

    def read_new(self) -> Iterator[dict[str, Any]]:
        """The pushes that were accepted since the last call."""
        if not self._journal.exists():
            return
        with self._journal.open("rb") as journal:
            journal.seek(self._at)
            for line in journal:
                if not line.endswith(b"\n"):
                    break
                self._at += len(line)
                yield msgspec.json.decode(line)
