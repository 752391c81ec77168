"""Writes one line to a file for each accepted push, so that a crash test can compare hundreds of thousands of them.

A line is `{"t": Unix seconds, "p": "apns"|"fcm", "env": …, "token": …, "id": apns-id or FCM's message id}`. If bodies
are requested it also has `"data"`: the APNs payload, or FCM's `message.data`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from tocsin.emulator.accepted_push import AcceptedPush

FLUSH_INTERVAL_S: Final = 0.1
"""How often the owner of a journal should call `flush`, in seconds."""
_encode = msgspec.json.Encoder().encode


class Journal:
    """Collects lines in memory and appends them to a file when `flush` is called.

    Raises:
        OSError: the file cannot be opened or written.
    """

    def __init__(self, path: Path, *, bodies: bool) -> None:
        self._file = path.open("ab")
        self._bodies = bodies
        self._lines: list[bytes] = []

    def add(self, push: AcceptedPush) -> None:
        """Add the line of one push; it is written with the next `flush`."""
        line: dict[str, Any] = {
            "t": round(push.time, 3),
            "p": push.provider,
            "env": push.environment,
            "token": push.token.decode("latin-1"),
            "id": push.id.decode("latin-1"),
        }
        if self._bodies:
            line["data"] = push.app_data()
        self._lines.append(_encode(line))

    def flush(self) -> None:
        """Write the collected lines to the file."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._file.write(b"\n".join(lines) + b"\n")
            self._file.flush()

    def close(self) -> None:
        """Write the collected lines and close the file."""
        self.flush()
        self._file.close()
