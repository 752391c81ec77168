"""What is the same in every simulation and takes long is worked out once per process.

To read an RSA key takes 15 ms, most of it for its check, four times in a simulation; a context of TLS takes 10 ms for
each access token. Litestar evaluates the annotations of a hundred handlers and copies their router for each life of
tocsin, which takes 40 ms.
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
        patches.enter_context(patch.object(router, "deepcopy", lambda own: own))
        yield


_context: Final = ssl.create_default_context()


def _tls(*_: Any, **__: Any) -> ssl.SSLContext:
    """Nobody uses it: the simulated network has no TLS."""
    return _context


@lru_cache(64)
def _read_once(pem: bytes, password: bytes | None = None, backend: Any = None) -> Any:
    return load_pem_private_key(pem, password)


_parsed: Final[dict[Any, ParsedSignature]] = {}
_parse: Final = ParsedSignature.from_fn


def _parsed_once(handler: Any, namespace: dict[str, Any]) -> ParsedSignature:
    """By the code of the handler: each life has its own methods and closures of it."""
    key = handler.__code__, handler.__defaults__, inspect.ismethod(handler)
    known = _parsed.get(key)
    if known is None:
        known = _parsed[key] = _parse(handler, namespace)
    return known
