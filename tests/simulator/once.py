"""What is the same in every simulation and takes long is worked out once per process.

To read an RSA key takes 15 ms, most of it for its check, four times in a simulation; a context of TLS takes 10 ms for
each access token. For each life of tocsin Litestar evaluates the annotations of a hundred handlers, makes types to read
their requests with, and copies their router, which takes 50 ms.
"""

from __future__ import annotations

import inspect
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, Final
from unittest.mock import patch

import jwt.algorithms
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from litestar import router
from litestar._kwargs import KwargsModel
from litestar._signature import SignatureModel
from litestar.handlers import BaseRouteHandler
from litestar.utils.signature import ParsedSignature

from tocsin.providers.apns import provider_token


@contextmanager
def worked_out_once() -> Iterator[None]:
    """Meanwhile keys and signatures are read once, and routers, which are made anew for each life, are not copied."""
    with ExitStack() as patches:
        for module in (serialization, provider_token, jwt.algorithms):
            patches.enter_context(patch.object(module, "load_pem_private_key", _read_once))
        patches.enter_context(patch.object(ssl, "create_default_context", _tls))
        patches.enter_context(patch.object(ParsedSignature, "from_fn", _parsed_once))
        patches.enter_context(patch.object(SignatureModel, "create", _signature_once))
        patches.enter_context(patch.object(BaseRouteHandler, "create_kwargs_model", _kwargs_once))
        patches.enter_context(patch.object(router, "deepcopy", lambda own: own))
        yield


_context: Final = ssl.create_default_context()


def _tls(*_: Any, **__: Any) -> ssl.SSLContext:
    """Nobody uses it: the simulated network has no TLS."""
    return _context


@lru_cache(64)
def _read_once(pem: bytes, password: bytes | None = None, backend: Any = None) -> Any:
    return load_pem_private_key(pem, password)


_Key = tuple[Any, ...]
_parsed: Final[dict[_Key, ParsedSignature]] = {}
_signatures: Final[dict[_Key, type[SignatureModel]]] = {}
_kwargs: Final[dict[_Key, KwargsModel]] = {}
_parse: Final = ParsedSignature.from_fn
_make_signature: Final = SignatureModel.create
_make_kwargs: Final = BaseRouteHandler.create_kwargs_model


def _key(function: Any) -> _Key:
    """By the code of the handler: each life has its own methods and closures of it."""
    return function.__code__, function.__defaults__, inspect.ismethod(function)


def _parsed_once(handler: Any, namespace: dict[str, Any]) -> ParsedSignature:
    key = _key(handler)
    known = _parsed.get(key)
    if known is None:
        known = _parsed[key] = _parse(handler, namespace)
    return known


def _signature_once(*, fn: Any, **rest: Any) -> type[SignatureModel]:
    key = _key(fn)
    known = _signatures.get(key)
    if known is None:
        known = _signatures[key] = _make_signature(fn=fn, **rest)
    return known


def _kwargs_once(handler: BaseRouteHandler, path_parameters: dict[str, Any]) -> KwargsModel:
    key = (*_key(handler.fn), *path_parameters)
    known = _kwargs.get(key)
    if known is None:
        known = _kwargs[key] = _make_kwargs(handler, path_parameters)
    return known
