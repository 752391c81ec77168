"""Whether a command printed what a page shows: the same text, but for what is another one each time.

Times, ids, secrets, hashes, numbers and free ports differ; white space does not count, as pages wrap long lines. `…` in
a page stands for anything. What stood in the page at the place of an id is remembered with what was really there: a
later command on the page that names the one means the other.
"""

from __future__ import annotations

import re
from typing import Final

_VARIABLE: Final = re.compile(
    r"""(?P<uuid>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})
    | (?P<time>\d{4}-\d\d-\d\d[T\s]?\d\d:\d\d:\d\d(?:\.\d+)?\s?(?:UTC|Z)?)
    | (?P<secret>tocsin_(?:producer|admin|monitoring)_[\w…-]+)
    | (?P<id>(?:key|ses|user)_[0-9a-f]+)
    | (?P<hex>\b[0-9a-f]{32,}\b)
    | (?P<key>\b[A-Z0-9]{10}\b(?!\.\w))
    | (?P<number>\d+(?:\.\d+)?)
    | (?P<rest>…)
    | (?P<space>\s+)""",
    re.VERBOSE,
)
_PATTERNS: Final = {
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "time": r"\d{4}-\d\d-\d\dT?\d\d:\d\d:\d\d(?:\.\d+)?(?:UTC|Z)?",
    "secret": r"tocsin_(?:producer|admin|monitoring)_[\w-]+",
    "id": r"(?:key|ses|user)_[0-9a-f]+",
    "hex": r"[0-9a-f]{32,}",
    "key": r"[A-Z0-9]{10}",
    "number": r"\d+(?:\.\d+)?",
    "rest": r".*?",
    "space": "",
}
_REMEMBERED: Final = ("uuid", "hex", "id")


def real_values(shown: str, printed: str) -> dict[str, str] | None:
    """What is in `printed` where `shown` has an id; None where `printed` has another shape than `shown`."""
    pattern, literals, end = "", [], 0
    for found in _VARIABLE.finditer(shown):
        kind = found.lastgroup or ""
        pattern += re.escape(shown[end : found.start()])
        remembered = kind in _REMEMBERED
        pattern += f"({_PATTERNS[kind]})" if remembered else _PATTERNS[kind]
        literals += [found.group()] if remembered else []
        end = found.end()
    pattern += re.escape(shown[end:])
    plain = re.sub(r"\x1b\[[0-9;]*m|\s+", "", printed)
    matched = re.fullmatch(pattern, plain, re.DOTALL)
    return None if matched is None else dict(zip(literals, matched.groups(), strict=True))
