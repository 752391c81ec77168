"""What happened in a simulation, a line each. The same seed makes the same lines, byte for byte."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final

_KEPT: Final = 400


class Trace:
    """A digest of all lines, and the last of them. `keep_all` is for comparing two traces."""

    def __init__(self, clock: Callable[[], float], *, keep_all: bool = False, most: int = _KEPT) -> None:
        self._clock = clock
        self._started_s = clock()
        self._most = None if keep_all else most
        self._digest = hashlib.blake2b(digest_size=16)
        self.lines: list[str] = []
        self.count = 0
        self.heard: Callable[[str, str, Mapping[str, Any], BaseException | None], None] | None = None
        """Told of each line of tocsin's log: the method, the sentence, the fields, and the exception."""

    def __call__(self, kind: str, text: str) -> None:
        line = f"{self._clock() - self._started_s:10.4f} {kind:<9} {text}"
        self.count += 1
        self._digest.update(line.encode() + b"\n")
        self.lines.append(line)
        if self._most is not None and len(self.lines) > 2 * self._most:
            del self.lines[: -self._most]

    def log(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        """A processor of structlog: tocsin's own log lines are a part of the trace."""
        said, error = event.pop("event", ""), _exception(event.pop("exc_info", None))
        if error is not None:
            event["error"] = repr(error)
        self("log", f"{method}: {said} {' '.join(f'{name}={value}' for name, value in sorted(event.items()))}".rstrip())
        if self.heard is not None:
            self.heard(method, said, event, error)
        return ""

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


def _exception(given: Any) -> BaseException | None:
    """What is meant by a log line's `exc_info`: an exception, its triple, or the one that is being handled."""
    if isinstance(given, tuple):
        return given[1]
    return given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
