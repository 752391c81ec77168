"""Says where JSON is wrong, and why: a path (`$.page_count`) and a reason, which never quote what it holds.

Only for JSON that a decoder has refused: it is looked at a second time here, more slowly.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import Raw

MOST_LEVELS: Final = 64
"""So deep may objects and lists be nested. The decoder's own limit depends on who calls it."""
TOO_DEEP: Final = f"nested more than {MOST_LEVELS} levels deep"
NOT_ALLOWED: Final = "not one of the allowed values"

_LONGEST_QUOTED_NAME: Final = 40
_MOST_SCANNED_BYTES: Final = 64 * 1024
# Names of fields in a path are those of the schema; what looks otherwise comes from a name that somebody chose.
_AT: Final = re.compile(r"^(?P<reason>.*?)(?: - at `(?P<at>\$(?:\.[a-z_]+|\[[0-9.]+\])*)`)?$", re.DOTALL)
_FIELD: Final = re.compile(r"Object (?P<how>missing required|contains unknown) field `(?P<field>[^`]*)`", re.DOTALL)
# It begins with literal characters, for which the search is quick.
_LONE_SURROGATE: Final = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F])"
)
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}:]', re.DOTALL)
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_any = msgspec.json.Decoder(Any).decode


def quotable_name(name: str) -> str:
    """A field's name as an error may quote it: `*` where it does not look like a name, as it may then be a secret."""
    return name if len(name) <= _LONGEST_QUOTED_NAME and name.isascii() and name.isidentifier() else "*"


def broken_rule(error: msgspec.ValidationError) -> tuple[str, str]:
    """What msgspec says about JSON that breaks a schema. A missing field is named by its own path."""
    match = _AT.match(str(error))
    assert match is not None
    reason, at = match["reason"], match["at"] or "$"
    if field := _FIELD.match(reason):
        at = f"{at}.{quotable_name(field['field'])}"
        reason = "missing" if "missing" in field["how"] else "unknown field"
    elif reason.startswith(("Invalid value ", "Invalid enum value ")):
        reason = NOT_ALLOWED  # msgspec quotes the value
    return at, reason


def undecodable(raw: bytes) -> tuple[str, str]:
    """Why `raw` cannot be decoded as a JSON object, whatever the schema. The path names a field of the object, if one
    field alone is the cause. It takes longer than decoding does."""
    try:
        fields = _decode_fields(raw)
    except RecursionError:
        return too_deep(raw)
    except msgspec.ValidationError as error:
        return broken_rule(error)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        half = _LONE_SURROGATE.search(raw)
        return "$" if half is None else _path_at(raw, half.start()), not_json(raw, error)
    for name, value in fields.items():
        if (reason := _why_not(bytes(value))) is not None:
            return f"$.{quotable_name(name)}", reason
    return "$", "cannot be read"


def not_json(raw: bytes, error: Exception) -> str:
    """The reason, of what a decoder has refused with `error` (not because it breaks a schema); quick, however long it
    is."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return "not valid JSON: not UTF-8"
    # The decoder says of some that they are truncated.
    if _LONE_SURROGATE.search(raw):
        return "half of a surrogate pair, which is no character"
    return f"not valid JSON: {error}"


def too_deep(raw: bytes) -> tuple[str, str]:
    """The same for JSON of which is known that it is nested too deeply; quick, however long it is."""
    return _path_at(raw), TOO_DEEP


def nested_too_deeply(value: Any, levels: int = MOST_LEVELS) -> bool:
    """Whether a decoded value has more than so many levels of objects and lists."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(nested_too_deeply(one, levels - 1) for one in inner)


def _why_not(value: bytes) -> str | None:
    """Why one value cannot be decoded; None where it can be."""
    try:
        _decode_any(value)
    except RecursionError:
        return TOO_DEEP
    except msgspec.ValidationError:
        return "a number that is out of range"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return not_json(value, error)
    return None


def _path_at(raw: bytes, offset: int | None = None) -> str:
    """The path of the field at `offset`; without one, of the field in which the nesting goes too deep. `$` where it is
    no field, or too far from the start."""
    level, name, last = 0, b"", b""
    for token in _TOKEN.finditer(raw, 0, _MOST_SCANNED_BYTES):
        found = token[0]
        if offset is not None and token.end() > offset:
            is_name = level == 1 and raw[token.end() :].lstrip().startswith(b":")
            return "$" if is_name or not name else _path(name)
        if found in (b"{", b"["):
            level += 1
        elif found in (b"}", b"]"):
            level -= 1
        elif found == b":" and level == 1:
            name = last
        if level > MOST_LEVELS and offset is None:
            return _path(name) if name else "$"
        last = found
    return "$"


def _path(name: bytes) -> str:
    return f"$.{quotable_name(name[1:-1].decode('latin-1'))}"
