"""Reads the JSON body of an operator's request, within its bounds, into the type that the route wants."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
from litestar import Request

from tocsin.api.body import read_body
from tocsin.api.problems import bad_input
from tocsin.domain.json_errors import TOO_DEEP, broken_rule, nested_too_deeply, quotable_name, undecodable

T = TypeVar("T")

MAX_BODY_BYTES: Final = 64 * 1024


class JsonBodies:
    """Reads bodies, each of which may take `timeout_s` seconds to arrive."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    async def read(self, request: Request[Any, Any, Any], kind: type[T], limit_bytes: int = MAX_BODY_BYTES) -> T:
        """The body as a `kind`.

        Raises:
            RequestError: it is too large or too slow, or it cannot be read as a `kind`; the error then names the field.
        """
        return decode(await read_body(request.scope, request.receive, limit_bytes, self._timeout_s), kind)


def decode(body: bytes, kind: type[T]) -> T:
    """A JSON object as a `kind`.

    Raises:
        RequestError: it is no JSON object, or breaks the rules of `kind`; the error names the field.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise bad_input(*undecodable(body)) from None
    for name, value in fields.items():
        if nested_too_deeply(value):
            raise bad_input(f"$.{quotable_name(name)}", TOO_DEEP)
    try:
        return msgspec.convert(_with_integers(fields), kind)
    except msgspec.ValidationError as error:
        raise bad_input(*broken_rule(error)) from None


def _with_integers(value: Any) -> Any:
    """The same with `2` for `2.0`, which is an integer in JSON Schema. It is not nested too deeply."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _with_integers(one) for name, one in value.items()}
        case list():
            return [_with_integers(one) for one in value]
        case _:
            return value
