"""Forbids what a seed does not decide: real clocks, threads, sockets, and randomness that nobody has seeded.

Within `nothing_real` such a call raises `NotSimulated` where tocsin or the simulator makes it, directly or through the
standard library. Libraries that only measure themselves (SQLAlchemy's cache of statements, say) may go on.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from types import FrameType
from typing import Any, Final
from unittest.mock import patch

OURS: Final = ("tocsin", "tests.simulator")
MEASURE_THEMSELVES: Final = ("sqlalchemy", "alembic", "httpx", "prometheus_client", "_pytest", "pytest")

_MODULES: Final = {
    time: (
        *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "clock_gettime", "sleep"),
        *("localtime", "gmtime"),
    ),
    os: ("urandom", "getrandom"),
    random: (
        *("random", "randrange", "randint", "choice", "choices", "sample", "shuffle", "uniform", "getrandbits"),
        *("gauss", "expovariate", "randbytes"),
    ),
}
_METHODS: Final = (
    (threading.Thread, "start"),
    (socket.socket, "__init__"),
    *((random.SystemRandom, name) for name in ("random", "getrandbits", "randbytes")),
)
_STANDARD: Final = sys.stdlib_module_names | {"unittest"}


class NotSimulated(AssertionError):  # noqa: N818 (it says what is so)
    """Something within the simulation is not decided by the seed."""


@contextmanager
def nothing_real() -> Iterator[None]:
    """Meanwhile real clocks, threads, sockets and unseeded randomness raise `NotSimulated`."""
    with ExitStack() as patches:
        for module, names in _MODULES.items():
            for name in names:
                if hasattr(module, name):
                    patches.enter_context(patch.object(module, name, _forbidden(getattr(module, name), name)))
        for owner, name in _METHODS:
            patches.enter_context(patch.object(owner, name, _forbidden(getattr(owner, name), name)))
        yield


def _forbidden(real: Callable[..., Any], name: str) -> Callable[..., Any]:
    @wraps(real)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        caller = _responsible(sys._getframe(1))
        if caller is not None:
            raise NotSimulated(f"{caller} calls {getattr(real, '__module__', '')}.{name}: it must come from outside")
        return real(*args, **kwargs)

    return guarded


def _responsible(frame: FrameType | None) -> str | None:
    """The code of ours behind a call, also through the standard library; None where a library measures itself."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module.startswith(OURS) and module != __name__:
            return f"{module}.{frame.f_code.co_qualname}"
        if module.startswith(MEASURE_THEMSELVES):
            return None
        if module.partition(".")[0] not in _STANDARD:
            return None
        frame = frame.f_back
    return None
