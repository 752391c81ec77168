"""JSON objects from outside, read so that every reader agrees about their content.

Of a name that is there twice, one reader takes the first value and another the last (RFC 8259, section 4): what an
issuer has checked could then differ from what is used here. Such an object is refused; RFC 7519 (section 4) and RFC
7515 (section 4) allow that for a JWT.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn


def read_object(content: bytes) -> dict[str, Any]:
    """The object that is all of `content`.

    Raises:
        ValueError: it is not JSON or no object, or a name is there twice, at any depth. The message quotes nothing.
    """
    try:
        value = json.loads(content.decode(), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except _RepeatedName:
        raise ValueError("a name is there twice") from None
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


class _RepeatedName(Exception):  # noqa: N818 (it says what is so)
    pass


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _RepeatedName
    return found


def _refuse_constant(_: str) -> NoReturn:
    """NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError
