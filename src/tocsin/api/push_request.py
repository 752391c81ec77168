"""Parses the body of `POST /api/push` (SPEC, section 2). Pure: whether an application is known here, `push` checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Raw, Struct

from tocsin.api.problems import Kind, RequestError, bad_input
from tocsin.domain.devices import Address, DeviceToken
from tocsin.domain.json_errors import quotable_name, undecodable
from tocsin.providers.fields import FieldError, Fields, read
from tocsin.providers.rules import RuleBook

_COMMON: Final = frozenset({"system", "action", "device_token"})
_decode = msgspec.json.Decoder(dict[str, Raw]).decode


class Add(Struct, frozen=True):
    """Register one token. `account`, where there is one, must be one with a credential."""

    provider: str
    token: DeviceToken
    address: Address
    account: str | None


class Delete(Struct, frozen=True):
    """Remove one token."""

    provider: str
    token: DeviceToken


def parse_push(body: bytes, rules: RuleBook) -> Add | Delete:
    """One operation. Known fields that the operation does not use are ignored, whatever their values.

    Raises:
        RequestError: the body breaks a rule.
    """
    fields = _object(body, _COMMON | rules.fields)
    try:
        own = rules[_choice(fields, "system", tuple(rules))]
        action = _choice(fields, "action", ("add", "delete"))
        token = _token(own.token, read(fields, "device_token", str))
        if action == "delete":
            return Delete(own.name, token)
        address = own.address(fields)
        return Add(own.name, token, address, own.account(address))
    except FieldError as error:
        raise _refused(error) from None


def unknown_application(application_id: str) -> RequestError:
    """The error for an id that is well formed, but has no credential here."""
    return bad_input("$.application_id", f"{application_id} is not known here", Kind.UNKNOWN_APPID)


def _object(body: bytes, known: frozenset[str]) -> Fields:
    try:
        # JSON is UTF-8, also in the fields that are ignored: `Raw` does not check that.
        body.decode()
        fields = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise bad_input(*undecodable(body)) from None
    for name in fields:
        if name not in known:
            raise bad_input(f"$.{quotable_name(name)}", "unknown field")
    return fields


def _choice(fields: Fields, name: str, choices: tuple[str, ...]) -> str:
    value = read(fields, name, str)
    if value not in choices:
        raise FieldError(name, f"must be {' or '.join(sorted(choices))}")
    return value


def _token(parse: Callable[[str], DeviceToken], text: str) -> DeviceToken:
    try:
        return parse(text)
    except ValueError as error:
        raise FieldError("device_token", str(error)) from None


def _refused(error: FieldError) -> RequestError:
    kind = Kind.MISSING_ELEMENT if error.missing else Kind.WRONG_SYNTAX
    if error.status:
        kind = Kind.of_slug(error.status)
    return bad_input(f"$.{error.field}", error.reason, kind)
