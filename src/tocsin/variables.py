"""Which environment variables are settings, and which only look like one.

Kubernetes sets `TOCSIN_SERVICE_HOST`, `TOCSIN_PORT` and others wherever a Service is called tocsin ("Discovering
services: environment variables"): what cannot be meant as a setting is left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel

ENV_PREFIX: Final = "TOCSIN_"

# What Kubernetes sets for the port of a Service: tcp://10.0.0.1:8080.
_SERVICE_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://")

_OF_A_SERVICE: Final = re.compile(r"_SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?$")
_OTHER: Final = frozenset({f"{ENV_PREFIX}CONFIG"})


class SettingsError(Exception):
    """The configuration cannot be used; the message names the key and the reason."""


def settings_in(environ: Mapping[str, str], model: type[BaseModel]) -> dict[str, str]:
    """The names of the variables that are settings of `model`, by `section__key` in lower case.

    Raises:
        SettingsError: one looks like a setting, and is none.
    """
    found = {}
    for variable, value in environ.items():
        if not variable.upper().startswith(ENV_PREFIX):
            continue
        name = variable[len(ENV_PREFIX) :].lower()
        section, _, key = name.partition("__")
        fields = _fields(model, section)
        if key and section and key.partition("__")[0] in fields:
            _check_value(variable, value, fields.get(key))
            found[name] = variable
        elif meant := _meant(model, name, value):
            raise SettingsError(f"environment variable {variable}: {meant}, or unset it")
    return found


def ignored(environ: Mapping[str, str], model: type[BaseModel]) -> list[str]:
    """The variables that begin as settings do, and are none, in a form in which no setting is written.

    What Kubernetes sets for a Service called tocsin is not among them, nor what names the configuration.
    """
    found = []
    for variable, value in environ.items():
        if not variable.upper().startswith(ENV_PREFIX) or variable.upper() in _OTHER:
            continue
        section, _, key = variable[len(ENV_PREFIX) :].lower().partition("__")
        is_setting = key and key.partition("__")[0] in _fields(model, section)
        if not (is_setting or _SERVICE_ADDRESS.match(value) or _OF_A_SERVICE.search(variable.upper())):
            found.append(variable)
    return sorted(found)


def _meant(model: type[BaseModel], name: str, value: str) -> str | None:
    """What to do about a variable that looks like a setting, and is none; None for all others."""
    section, separator, key = name.partition("__")
    if separator and section:
        fields = _fields(model, section)
        if not fields:
            return f"unknown section {section!r}; use one of {', '.join(model.model_fields)}"
        return f"unknown key {key!r}; use one of {', '.join(fields)}"
    if name in model.model_fields:
        return f"names a section without a key; write it as {_variable(name, 'KEY')}"
    if _SERVICE_ADDRESS.match(value):
        return None
    for section in model.model_fields:
        prefix = f"{section}_"
        key = name.removeprefix(prefix)
        if name.startswith(prefix) and key in _fields(model, section):
            return f"unknown key; write it as {_variable(section, key)} if you mean {key!r} of [{section}]"
    return None


def _variable(section: str, key: str) -> str:
    return f"{ENV_PREFIX}{section}__{key}".upper()


def _fields(model: type[BaseModel], section: str) -> dict[str, Any]:
    """The fields of a section by their names; none where there is no such section."""
    field = model.model_fields.get(section)
    fields: dict[str, Any] = getattr(field.annotation, "model_fields", {}) if field else {}
    return fields


def _check_value(variable: str, value: str, field: Any) -> None:
    """Checks what pydantic-settings would report without naming the variable.

    Raises:
        SettingsError: it is not text, or not the JSON that its field needs.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SettingsError(f"environment variable {variable}: not UTF-8; correct or unset it") from None
    needed = None if field is None else _container(field.annotation)
    if needed is None:
        return
    try:
        fits = isinstance(json.loads(value), needed)
    except (ValueError, RecursionError):
        fits = False
    if not fits:
        form = """a JSON object, like '{"fax_new": …}'""" if needed is dict else """a JSON array, like '["…"]'"""
        raise SettingsError(f"environment variable {variable}: must be {form}")


def _container(annotation: Any) -> type[dict[Any, Any]] | type[list[Any]] | None:
    """What JSON a field of this type is written as: an object, an array, or, with None, a value by itself."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(one for one in get_args(annotation) if one is not NoneType)
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    origin = get_origin(annotation)
    return dict if origin is dict else list if origin in (list, tuple) else None
