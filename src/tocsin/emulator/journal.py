"""A line on disk for every accepted push, so that a crash test can account for hundreds of thousands of them.

One line is `{"t": Unix seconds, "p": "apns"|"fcm", "env": …, "token": …, "id": apns-id or FCM's message id}`, and,
where bodies are wanted, `"data"`: the APNs payload, or FCM's `message.data`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from tocsin.emulator.arrived import Arrived

FLUSH_EVERY_S: Final = 0.1
_encode = msgspec.json.Encoder().encode


class Journal:
    """Gathers lines and writes them when `flush` is called, every `FLUSH_EVERY_S`."""

    def __init__(self, path: Path, *, bodies: bool) -> None:
        self._file = path.open("ab")
        self._bodies = bodies
        self._lines: list[bytes] = []

    def add(self, arrived: Arrived) -> None:
        line: dict[str, Any] = {
            "t": round(arrived.time, 3),
            "p": arrived.provider,
            "env": arrived.environment,
            "token": arrived.token.decode("latin-1"),
            "id": arrived.id.decode("latin-1"),
        }
        if self._bodies:
            line["data"] = arrived.content()
        self._lines.append(_encode(line))

    def flush(self) -> None:
        if self._lines:
            lines, self._lines = self._lines, []
            self._file.write(b"\n".join(lines) + b"\n")
            self._file.flush()

    def close(self) -> None:
        self.flush()
        self._file.close()
