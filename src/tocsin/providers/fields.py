"""Reads the fields of a registration, each of which may be missing or of the wrong type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec
from msgspec import Raw

T = TypeVar("T")

Fields = Mapping[str, Raw]
"""A registration's fields by name, each as the JSON that came."""
_JSON_TYPES: Final = {str: "a string", bool: "true or false"}


class FieldError(ValueError):
    """A field breaks a rule. `status` is what the document calls the failure, where it has a name for it."""

    def __init__(self, field: str, reason: str, *, status: str = "", missing: bool = False) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
        self.status = status
        self.missing = missing


def read(fields: Fields, name: str, kind: type[T]) -> T:
    """The value of a field.

    Raises:
        FieldError: it is missing, or is not a `kind`.
    """
    raw = fields.get(name)
    if raw is None:
        raise FieldError(name, "missing", missing=True)
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise FieldError(name, f"must be {_JSON_TYPES[kind]}") from None
