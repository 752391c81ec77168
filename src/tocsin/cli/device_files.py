"""Files of devices, as CSV (RFC 4180) or as NDJSON: one registration a line, with the fields of `POST /api/push`.

`owner`, `system` and `device_token`; for APNs `application_id`, `sandbox` and `apns_topic`, too. In CSV the first line
names the columns, and an empty cell is a field that is absent. Other columns are ignored: what was exported can be
imported.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Final
from uuid import UUID

import msgspec
from msgspec import Raw, Struct

from tocsin.api.timestamps import rfc3339
from tocsin.domain.devices import Device, DeviceToken, Registration
from tocsin.domain.events import UserId
from tocsin.domain.json_errors import undecodable
from tocsin.providers.fields import FieldError, Fields, read
from tocsin.providers.rules import RuleBook

_LONGEST_LINE: Final = 64 * 1024
_decode = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode
_BOOLEANS: Final = {"true": True, "false": False, "1": True, "0": False}


class Format(StrEnum):
    """How a file is written."""

    CSV = "csv"
    NDJSON = "ndjson"


class Line(Struct, frozen=True):
    """One registration of a file, or why it is none. `number` counts from 1; `account` is whose credential it needs."""

    number: int
    registration: Registration | None = None
    account: str | None = None
    field: str = ""
    reason: str = ""


def format_of(path: Path) -> Format | None:
    """The format that the file's name ends with; None where it says nothing."""
    names = {".csv": Format.CSV, ".ndjson": Format.NDJSON, ".jsonl": Format.NDJSON}
    return names.get(path.suffix.lower())


def lines(file: IO[bytes], format: Format, rules: RuleBook) -> Iterator[Line]:
    """Every line of a file, in its order.

    Raises:
        ValueError: the file has no line with the names of the columns, or a column is missing.
    """
    fields = _of_csv(file) if format is Format.CSV else _of_ndjson(file)
    for number, found in fields:
        if isinstance(found, FieldError):
            yield Line(number, field=found.field, reason=found.reason)
            continue
        try:
            registration = _registration(found, rules)
        except FieldError as error:
            yield Line(number, field=error.field, reason=error.reason)
        else:
            yield Line(number, registration, rules[registration.provider].account(registration.address))


def _registration(fields: Fields, rules: RuleBook) -> Registration:
    owner = read(fields, "owner", str)
    system = read(fields, "system", str)
    token = read(fields, "device_token", str)
    try:
        user = UserId(str(UUID(owner)))
    except ValueError:
        raise FieldError("owner", "must be a UUID") from None
    own = rules.get(system)
    if own is None:
        raise FieldError("system", rules.must_be)
    try:
        parsed: DeviceToken = own.token(token)
    except ValueError as error:
        raise FieldError("device_token", str(error)) from None
    return Registration(user, own.name, parsed, own.address(fields))


def _of_ndjson(file: IO[bytes]) -> Iterator[tuple[int, Fields | FieldError]]:
    number = 0
    while line := file.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            while line and not line.endswith(b"\n"):
                line = file.readline(_LONGEST_LINE)
            yield number, FieldError("$", f"longer than {_LONGEST_LINE} bytes")
            continue
        if not line.strip():
            continue
        try:
            line.decode()
            yield number, _decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            at, reason = undecodable(line)
            yield number, FieldError(at, reason)


def _of_csv(file: IO[bytes]) -> Iterator[tuple[int, Fields | FieldError]]:
    csv.field_size_limit(_LONGEST_LINE)
    rows = csv.reader(_texts(file), strict=True)
    try:
        columns = next(rows, None)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"line 1: {error}") from None
    missing = [name for name in ("owner", "system", "device_token") if name not in (columns or [])]
    if columns is None or missing:
        raise ValueError(f"line 1 names the columns, and there is no column {', '.join(missing)}")
    while True:
        number = rows.line_num + 1
        try:
            row = next(rows, None)
        except (csv.Error, ValueError) as error:
            yield number, FieldError("$", str(error))
            continue
        if row is None:
            return
        if len(row) != len(columns):
            if row:
                yield number, FieldError("$", f"{len(row)} cells, and line 1 names {len(columns)}")
            continue
        yield number, _fields(columns, row)


def _fields(columns: Sequence[str], row: Sequence[str]) -> Fields | FieldError:
    values: dict[str, Any] = {name: value for name, value in zip(columns, row, strict=True) if value}
    if "sandbox" in values:
        sandbox = _BOOLEANS.get(values["sandbox"].lower())
        if sandbox is None:
            return FieldError("sandbox", "must be true or false")
        values["sandbox"] = sandbox
    return {name: Raw(_encode(value)) for name, value in values.items()}


def _texts(file: IO[bytes]) -> Iterator[str]:
    """The lines as text: what is not UTF-8 is a line that no field is read from."""
    first = True
    for line in file:
        # Spreadsheets put a byte order mark before their UTF-8.
        yield line.decode("utf-8-sig" if first else "utf-8", errors="replace")
        first = False


def write(devices: Iterable[Device], format: Format, rules: RuleBook, file: IO[str], *, names: bool) -> None:
    """Write registrations; `names` writes CSV's line of columns first."""
    columns = ("owner", "system", "device_token", *sorted(rules.fields), "registered")
    described = [_described(device, rules, columns) for device in devices]
    if format is Format.NDJSON:
        file.write("".join(_encode(one).decode() + "\n" for one in described))
        return
    table = csv.DictWriter(file, columns, lineterminator="\n")
    if names:
        table.writeheader()
    table.writerows({name: _cell(value) for name, value in one.items()} for one in described)


def _described(device: Device, rules: RuleBook, columns: Sequence[str]) -> Mapping[str, Any]:
    described = rules.of(device).describe(device.address)
    values = {
        "owner": device.owner,
        "system": device.provider,
        "device_token": device.token,
        **described,
        "registered": rfc3339(device.registered_us // 1000),
    }
    return {name: values[name] for name in columns if name in values}


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
